//! A customer's programs, with tokens that may do as much as they say and no more, at any node.

use std::fs;

use holdfast_cluster_tests::harness::{Sandbox, wait_for};
use holdfast_cluster_tests::story::{Mailbox, Web, offer, send};
use serde_json::{Value, json};

use crate::{BOB, DOMAIN, JOE, NAME, SOON, add_account, apart, beside_others, held, subjects};

/// A new token of the account, and its id.
fn token(sandbox: &Sandbox, scope: &str) -> (String, String) {
    let add = ["account", "token", "add", NAME, "--scope", scope];
    let made = sandbox.must("n1", &add);
    let text = |name: &str| made[name].as_str().expect("text").to_owned();
    (text("token"), text("id"))
}

fn program(sandbox: &Sandbox, node: &str, token: &str) -> Web {
    Web::new(sandbox.node(node).portal.expect("a portal")).with_token(token)
}

#[test]
fn programs_do_what_their_tokens_say_and_no_more_at_any_node() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        add_account(&sandbox);
        let others = mailbox.address().to_string();
        sandbox.must("n1", &["domain", "add", "other.test", "--primary", &others]);
        for subject in ["one", "two"] {
            assert_eq!(send(sandbox.node("n1").smtp, BOB, JOE, subject).code, 250);
        }
        let (reader, reader_id) = token(&sandbox, "read");
        let (starter, _) = token(&sandbox, "deliver");
        let (keeper, _) = token(&sandbox, "read,mail,settings");
        let of = |what: &str| format!("/api/v1/domains/{DOMAIN}{what}");

        // Who shows none, or one that nobody made, learns nothing; nor does anybody of other domains.
        let stranger = Web::new(sandbox.node("n2").portal.expect("a portal"));
        assert_eq!(stranger.get(&of("")).code, 401);
        let guessed = program(&sandbox, "n2", "holdfast_guessed");
        assert_eq!(guessed.get(&of("")).code, 401);
        let reads = |node: &str| program(&sandbox, node, &reader);
        let known = wait_for("the token at another node", SOON, || {
            let known = reads("n3").get("/api/v1/domains");
            (known.code == 200).then(|| known.json())
        });
        assert_eq!(
            known["domains"].as_array().map(Vec::len),
            Some(1),
            "{known}"
        );
        assert_eq!(known["domains"][0]["held"], 2, "{known}");
        assert_eq!(reads("n3").get("/api/v1/domains/other.test").code, 404);

        // Who may only look does nothing else.
        for (path, order) in [
            (of("/deliver"), json!({})),
            (of("/mail"), json!({"how": "delete", "ids": ["x"]})),
            (of("/recipients"), json!({"add": ["joe"]})),
        ] {
            assert_eq!(reads("n2").post(&path, &order).code, 403, "{path}");
        }
        // And who may only start delivery does not look.
        assert_eq!(
            program(&sandbox, "n2", &starter).get(&of("/mail")).code,
            403
        );

        // The list tells what one would like to know, and is searched by it.
        let list = |q: &str| -> Vec<Value> {
            let found = reads("n2")
                .get(&of(&format!("/mail?state=held&q={q}")))
                .json();
            found["mail"].as_array().expect("a list").clone()
        };
        let all = wait_for("when it is tried next", SOON, || {
            let all = list("");
            let is_known = all.len() == 2 && all[0]["next_try_at"].is_string();
            is_known.then_some(all)
        });
        assert_eq!(all[0]["subject"], "one", "{all:?}");
        let two = list("TWO");
        assert_eq!(two.len(), 1, "{two:?}");
        assert_eq!(two[0]["to"][0], JOE);
        assert!(list("three").is_empty());

        // One is kept back, at a node that dies then; another has it so.
        let keeps = program(&sandbox, "n1", &keeper);
        let order = json!({"how": "hold", "ids": [two[0]["id"]]});
        assert_eq!(keeps.post(&of("/mail"), &order).json()["messages"], 1);
        let listed = json!({"add": ["joe"], "mode": "listed"});
        assert_eq!(keeps.post(&of("/recipients"), &listed).code, 200);
        sandbox.kill("n1");
        wait_for("the list at another node", SOON, || {
            let answer = offer(sandbox.node("n2").smtp, BOB, "nobody@example.test", 100);
            (answer.code == 550).then_some(())
        });

        mailbox.come_up();
        let started = program(&sandbox, "n2", &starter).post(&of("/deliver"), &json!({}));
        assert_eq!(started.code, 200, "{started:?}");
        assert_eq!(subjects(&mailbox.wait_for(1, SOON)), ["one"]);
        let keeps = program(&sandbox, "n3", &keeper);
        let order = json!({"how": "release", "ids": [two[0]["id"]]});
        assert_eq!(keeps.post(&of("/mail"), &order).json()["messages"], 1);
        assert_eq!(subjects(&mailbox.wait_for(2, SOON)), ["one", "two"]);

        // A token that was taken away opens nothing at any node.
        sandbox.must("n2", &["account", "token", "remove", NAME, &reader_id]);
        for node in ["n2", "n3"] {
            wait_for("the token's end", SOON, || {
                (program(&sandbox, node, &reader).get(&of("")).code == 401).then_some(())
            });
        }
        assert_eq!(held(&sandbox, "n2"), 0);
    });
}

#[test]
fn guesses_at_two_nodes_lock_an_account_at_all_of_them() {
    let _turn = beside_others();
    apart(|| {
        let mailbox = Mailbox::new();
        let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        add_account(&sandbox);
        let file = sandbox.folder().expect("a folder").join("password");
        let password = fs::read_to_string(file).expect("a password");
        let attempt = |node: &str, password: &str| {
            let web = Web::new(sandbox.node(node).portal.expect("a portal"));
            web.send_form("/sign-in", &[("name", NAME), ("password", password)])
                .code
        };
        let works = |node: &str| {
            wait_for("the account", SOON, || {
                (attempt(node, &password) == 303).then_some(())
            });
        };
        works("n3");
        for node in ["n1", "n2", "n1", "n2", "n1"] {
            assert_eq!(attempt(node, "guessed"), 401);
        }
        // The right one opens nothing now, wherever one tries.
        for node in ["n3", "n1"] {
            assert_eq!(attempt(node, &password), 401, "{node}");
        }
        sandbox.must("n2", &["account", "unlock", NAME]);
        works("n3");
    });
}
