//! What a customer pays for: counted over all nodes, once, and told the same by each of them when
//! the month is over.

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, pass, send};
use serde_json::Value;

use crate::{BOB, DOMAIN, JOE, SOON, apart, beside_others, deliverer, wait_until_held};

/// Of a month, or of the one that runs.
fn usage(sandbox: &Sandbox, node: &str, month: Option<&str>) -> Value {
    let of_domain = ["usage", "--domain", DOMAIN];
    match month {
        Some(month) => sandbox.must(node, &[&of_domain[..], &["--month", month]].concat()),
        None => sandbox.must(node, &of_domain),
    }
}

#[test]
fn a_month_is_billed_alike_by_every_node_whichever_took_the_mail() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let plan = ["plan", "add", "standard", "--price", "5.00 EUR"];
        let offer = [
            "--quota",
            "10MB",
            "--step",
            "1MB",
            "--step-price",
            "2.00 EUR",
        ];
        let terms = ["--quota-messages", "5", "--hold", "quota"];
        sandbox.must("n1", &[&plan[..], &offer, &terms].concat());
        let on_it = ["domain", "set", DOMAIN, "--plan", "standard"];
        sandbox.must("n2", &[&on_it[..], &["--extra-steps", "1"]].concat());

        for node in ["n1", "n2", "n3"] {
            assert_eq!(send(sandbox.node(node).smtp, BOB, JOE, node).code, 250);
        }
        let worker = deliverer(&sandbox);
        sandbox.kill(&worker);
        let others = sandbox.alive();
        for node in &others {
            assert_eq!(send(sandbox.node(node).smtp, BOB, JOE, node).code, 250);
        }
        // What did not fit is not paid for.
        for node in &others {
            assert_eq!(send(sandbox.node(node).smtp, BOB, JOE, "more").code, 452);
        }
        let one = usage(&sandbox, &others[0], None);
        assert_eq!(one["accepted"]["messages"], 5, "{one}");
        assert_eq!(one["peak_bytes"], one["accepted"]["bytes"], "{one}");
        assert_eq!(one["is_over"], false, "{one}");
        let month = one["month"].as_str().expect("a month").to_owned();

        // The month goes by with everything held; in the next it is delivered.
        pass(&sandbox, "31d");
        mailbox.come_up();
        mailbox.wait_for(5, SOON);
        wait_until_held(&sandbox, &others[0], 0);
        let bill = usage(&sandbox, &others[0], Some(&month));
        assert_eq!(bill["is_over"], true, "{bill}");
        assert_eq!(bill["bill"]["amount"], "7.00", "{bill}");
        assert_eq!(bill["bill"]["extra_steps"], 1, "{bill}");
        assert_eq!(bill["accepted"], one["accepted"], "{bill}");
        assert_eq!(bill["delivered"]["messages"], 0, "{bill}");
        let next = usage(&sandbox, &others[1], None);
        assert_eq!(next["accepted"]["messages"], 0, "{next}");
        assert_eq!(next["delivered"]["messages"], 5, "{next}");
        // What lay there, by the byte and the day, in both months together: 31 days at most.
        let days = |of: &Value| of["byte_days"].as_u64().expect("a number");
        let held = one["accepted"]["bytes"].as_u64().expect("a number");
        let lay = days(&bill) + days(&next);
        assert!(lay <= held * 32 && lay + 2 >= held * 30, "{bill} {next}");

        // Whoever was away tells the same once it is back.
        sandbox.restart(&worker);
        wait_for("the same bill", SOON, || {
            let asked = sandbox.ask(&worker, &["usage", "--domain", DOMAIN, "--month", &month]);
            let told: Value = serde_json::from_slice(&asked.stdout).ok()?;
            (told == bill).then_some(())
        });
    });
}
