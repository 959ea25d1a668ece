//! What an operator is asked on the telephone: "what became of my mail?" Any node knows, though one
//! took it, another delivered it, and a third refused what never became mail. And what an operator
//! does with a heap of it.

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, send};
use serde_json::Value;

use crate::{
    BOB, DOMAIN, JOE, SENDERS, SOON, apart, beside_others, deliverer, held, wait_until_held,
};

/// The lines of what must succeed.
fn lines(sandbox: &Sandbox, node: &str, command: &[&str]) -> Vec<Value> {
    let ran = sandbox.ask(node, command);
    let errors = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{command:?}: {errors}");
    String::from_utf8_lossy(&ran.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

fn kinds(story: &[Value]) -> Vec<&str> {
    story
        .iter()
        .filter_map(|one| one["kind"].as_str())
        .collect()
}

/// The story, once it has an end like this: a history is written a moment later.
fn story_until(sandbox: &Sandbox, node: &str, asked: &[&str], kind: &str) -> Vec<Value> {
    let command = [&["mail", "trace"], asked].concat();
    wait_for(&format!("a story with {kind}"), SOON, || {
        let ran = sandbox.ask(node, &command);
        let story: Vec<Value> = String::from_utf8_lossy(&ran.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect();
        kinds(&story).contains(&kind).then_some(story)
    })
}

#[test]
fn any_node_tells_what_became_of_mail_that_others_took_and_delivered() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        assert_eq!(send(sandbox.node("n1").smtp, BOB, JOE, "first").code, 250);
        // Who delivers is somebody else than who took it.
        let deliverer = deliverer(&sandbox);
        let [taker, asked]: [String; 2] = sandbox
            .names()
            .into_iter()
            .filter(|name| *name != deliverer)
            .collect::<Vec<_>>()
            .try_into()
            .expect("two others");
        let taken = send(sandbox.node(&taker).smtp, BOB, JOE, "mine");
        assert_eq!(taken.code, 250);
        let refused = send(sandbox.node(&asked).smtp, BOB, "joe@nowhere.test", "no");
        assert_eq!(refused.code, 550);

        let listed = lines(&sandbox, &asked, &["mail", "list", "--from", "BOB@"]);
        assert_eq!(listed.len(), 2, "{listed:?}");
        let id = listed[1]["id"].as_str().expect("an id").to_owned();
        let shown = sandbox.must(&asked, &["mail", "show", &id]);
        assert_eq!(shown["recipients"][0]["state"], "held");
        assert_eq!(shown["recipients"][0]["lease_node"], deliverer.as_str());
        let headers = shown["headers"].as_array().expect("headers");
        assert!(headers.iter().any(|header| header["value"] == "mine"));
        let bodies = shown["bodies"].as_array().expect("nodes");
        assert!(bodies.iter().filter(|body| body["has"] == true).count() >= 2);

        // The primary comes back half-built: it knows nobody, and is not believed.
        mailbox.has_only(&["nobody@example.test"]);
        mailbox.come_up();
        story_until(&sandbox, &asked, &[&id], "kept");
        mailbox.has_only(&[JOE]);
        let requeued = sandbox.must(&asked, &["mail", "requeue", &id]);
        assert_eq!(requeued["messages"], 1);
        let story = story_until(&sandbox, &asked, &[&id], "completed");
        // Why it waited is told too: its primary was away, and came back.
        assert!(kinds(&story).contains(&"back"), "{story:?}");
        let of_it: Vec<Value> = story
            .iter()
            .filter(|one| one["id"] == id.as_str())
            .cloned()
            .collect();
        assert_eq!(
            kinds(&of_it),
            [
                "accepted",
                "rejected",
                "kept",
                "requeue",
                "delivered",
                "completed"
            ]
        );
        let by = |kind: &str| {
            let one = story.iter().find(|one| one["kind"] == kind);
            one.and_then(|one| one["node"].as_str()).unwrap_or_default()
        };
        assert_eq!(
            (by("accepted"), by("delivered")),
            (taker.as_str(), deliverer.as_str())
        );
        let story = of_it;
        assert_eq!(story[0]["client"], "127.0.0.1");
        assert!(
            story[1]["text"]
                .as_str()
                .is_some_and(|text| text.starts_with("550"))
        );

        // What never became mail is found by who sent it, beside what did.
        let story = story_until(&sandbox, &taker, &["--from", SENDERS], "refused");
        let no = story
            .iter()
            .find(|one| one["kind"] == "refused")
            .expect("a refusal");
        assert_eq!(no["to"][0], "joe@nowhere.test");
        assert_eq!(no["node"], asked.as_str());
        assert!(no["id"].is_null());
        assert!(story.iter().any(|one| one["id"] == id.as_str()));

        // A node that does not answer is named.
        sandbox.kill(&taker);
        let story = story_until(&sandbox, &asked, &[&id], "completed");
        assert_eq!(kinds(&story)[0], "rejected", "its part is missing");
        let end = story.last().expect("an end");
        assert_eq!(end["silent"][0]["node"], taker.as_str());
        let ran = sandbox.ask(&asked, &["events"]);
        assert_eq!(ran.status.code(), Some(3), "all is not well");
        let told = String::from_utf8_lossy(&ran.stdout);
        let down: Vec<Value> = told
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["kind"] == "node_unreachable")
            .collect();
        assert_eq!(down.len(), 1, "{told}");
        assert_eq!(down[0]["node"], taker.as_str());
    });
}

#[test]
fn a_heap_of_mail_is_disposed_of_at_once_and_no_other_mail_with_it() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        let spam = 300;
        for number in 0..spam {
            let node = ["n1", "n2", "n3"][number % 3];
            let from = format!("spammer{number}@bad.test");
            assert_eq!(send(sandbox.node(node).smtp, &from, JOE, "spam").code, 250);
        }
        assert_eq!(send(sandbox.node("n1").smtp, BOB, JOE, "mine").code, 250);
        wait_until_held(&sandbox, "n2", spam as u64 + 1);
        let delete = ["mail", "delete", "--from", "@BAD.test"];
        let would = sandbox.must("n2", &[&delete[..], &["--dry-run"]].concat());
        assert_eq!(would["messages"], spam);
        assert!(
            would["bytes"]
                .as_u64()
                .is_some_and(|bytes| bytes > 100 * spam as u64)
        );
        assert_eq!(
            sandbox.ask("n2", &delete).status.code(),
            Some(5),
            "nobody can be asked"
        );
        let listed =
            |which: &[&str]| lines(&sandbox, "n3", &[&["mail", "list"], which].concat()).len();
        assert_eq!(listed(&["--held"]), spam + 1, "nothing was changed");

        let deleted = sandbox.must("n2", &[&delete[..], &["--yes"]].concat());
        assert_eq!(deleted["messages"], spam);
        wait_for("the same at another node", SOON, || {
            (listed(&["--deleted"]) == spam && listed(&["--held"]) == 1).then_some(())
        });
        let back = ["mail", "undelete", "--from", "spammer7@", "--yes"];
        assert_eq!(sandbox.must("n1", &back)["messages"], 1);
        mailbox.come_up();
        let received = mailbox.wait_for(2, SOON);
        let mut subjects = crate::subjects(&received);
        subjects.sort_unstable();
        assert_eq!(subjects, ["mine", "spam"]);
        // What the server took is recorded a moment later; what was deleted is held until it is gone for good.
        wait_until_held(&sandbox, "n1", spam as u64 - 1);
        let discard = ["mail", "discard", "--from", "@bad.test", "--held", "--yes"];
        assert_eq!(sandbox.must("n1", &discard)["messages"], spam - 1);
        assert_eq!(held(&sandbox, "n1"), 0);
    });
}
