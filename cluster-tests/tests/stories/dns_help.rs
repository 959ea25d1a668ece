//! A customer enters what we tell them into their zone; every node looks whether it is right.

use std::time::Duration;

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Mailbox, Zone};
use serde_json::Value;

use crate::{DOMAIN, apart, beside_others};

/// What the operator's own zone says of the nodes.
const OURS: &str = "n1.holdfast.test. A 192.0.2.1
n2.holdfast.test. A 192.0.2.2
n3.holdfast.test. A 192.0.2.3
1.2.0.192.in-addr.arpa. PTR n1.holdfast.test.
2.2.0.192.in-addr.arpa. PTR n2.holdfast.test.
3.2.0.192.in-addr.arpa. PTR n3.holdfast.test.
";

#[test]
fn a_customer_enters_our_lines_and_every_node_looks_whether_they_are_right() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        mailbox.come_up();
        // A resolver that kept answers would be noticed.
        let zone = Zone::new(Duration::from_secs(3600));
        let dns = zone.address().to_string();
        let sandbox = Sandbox::start_with(3, DOMAIN, mailbox.address(), &["--dns", &dns]);
        let named = format!("mail.{DOMAIN}:{}", mailbox.address().port());
        let theirs = format!("mail.{DOMAIN}. A 127.0.0.1\n");
        zone.says(&format!("{OURS}{theirs}"));
        let private = ["--private-addresses", "allow"];
        sandbox.must("n1", &[&["domain", "route", DOMAIN], &private[..]].concat());
        sandbox.must("n1", &["domain", "set", DOMAIN, "--primary", &named]);

        let (code, found) = check(&sandbox);
        assert_eq!(code, Some(3), "{found}");
        assert!(faults(&found)[0].contains("example.test does not exist"));

        // What `domain dns` prints is what `domain check` is content with, at once.
        let lines = sandbox.must("n2", &["domain", "dns", DOMAIN]);
        let lines: Vec<&str> = lines["records"]
            .as_array()
            .expect("lines")
            .iter()
            .map(|line| line.as_str().expect("a line"))
            .collect();
        assert_eq!(lines.len(), 4, "{lines:?}");
        zone.says(&format!("{OURS}{theirs}{}", lines.join("\n")));
        let (code, found) = check(&sandbox);
        assert_eq!(code, Some(0), "{found}");
        assert_eq!(faults(&found), Vec::<String>::new());
        for finding in found["findings"].as_array().expect("findings") {
            assert_eq!(finding["weight"], "good", "{finding}");
            assert_eq!(finding["nodes"].as_array().map(Vec::len), Some(3));
        }

        // What customers do wrong, and what it is told to them as.
        for (said, expected) in [
            (
                "example.test. MX 10 n1.holdfast.test.\nexample.test. MX 20 mail.example.test.",
                "although the primary is up",
            ),
            (
                "example.test. MX 10 mail.example.test.",
                "no mail comes here",
            ),
            ("example.test. MX 0 .", "takes no mail at all"),
            (
                "example.test. MX 10 www.example.test.\nwww.example.test. CNAME mail.example.test.
             example.test. MX 20 n1.holdfast.test.",
                "www.example.test is an alias (CNAME) of mail.example.test",
            ),
            (
                "example.test. MX 10 gone.example.test.\nexample.test. MX 20 n1.holdfast.test.",
                "the MX host gone.example.test has no address",
            ),
            ("example.test. TXT here", "has no MX record"),
        ] {
            zone.says(&format!("{OURS}{theirs}{said}"));
            let (code, found) = check(&sandbox);
            assert_eq!(code, Some(3), "{said}: {found}");
            let faults = faults(&found);
            assert!(
                faults.iter().any(|fault| fault.contains(expected)),
                "{said}: {faults:?}"
            );
        }

        // A node that nobody can ask is said to be unknown, and does not keep the others from looking.
        let mut sandbox = sandbox;
        sandbox.kill("n3");
        zone.says(&format!("{OURS}{theirs}{}", lines.join("\n")));
        let (_, found) = check(&sandbox);
        assert_eq!(found["silent"][0]["node"], "n3", "{found}");
        assert_eq!(faults(&found), Vec::<String>::new());
    });
}

fn check(sandbox: &Sandbox) -> (Option<i32>, Value) {
    let output = sandbox.ask("n1", &["domain", "check", DOMAIN]);
    let found = serde_json::from_slice(&output.stdout);
    let found = found.unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code(), found)
}

fn faults(found: &Value) -> Vec<String> {
    let findings = found["findings"].as_array().expect("findings");
    let faults = findings
        .iter()
        .filter(|finding| finding["weight"] == "fault");
    faults
        .map(|finding| finding["what"].as_str().expect("words").to_owned())
        .collect()
}
