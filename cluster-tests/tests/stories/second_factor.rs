//! A customer adds an authenticator to the account; from then on a password alone opens nothing.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Browser, Mailbox, Web, code};

use crate::{DOMAIN, NAME, PASSWORD, add_account, apart, beside_others, portal, sign_in};

/// Seconds of Unix time.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[test]
fn an_authenticator_is_added_in_the_browser_and_asked_for_at_every_node() {
    let _turn = beside_others();
    apart(|| {
        let mailbox = Mailbox::new();
        let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        add_account(&sandbox);
        let browser = Browser::start();
        let page = browser.open((1100, 1300), true);
        let at = portal(&sandbox, "n1");
        sign_in(&page, &at);
        page.go(&format!("{at}/account"));
        page.expect("With codes, a stolen password alone opens nothing.");
        page.press("Set up codes");
        page.expect("Scan this with your authenticator");
        page.picture("12-authenticator");
        let key = page.read("form[action='/account/codes'] code.token");
        // Only what it shows proves that it has the key.
        let form = "form[action='/account/codes']";
        page.fill(&format!("{form} input[name=code]"), &code(&key, now()));
        page.fill(&format!("{form} input[name=current]"), PASSWORD);
        page.press("Switch codes on");
        page.expect("A code is asked for whenever you sign in.");

        page.press("Sign out");
        page.expect("Sign in");
        let attempt = |node: &str, code: &str| {
            let web = Web::new(sandbox.node(node).portal.expect("a portal"));
            let fields = [("name", NAME), ("password", PASSWORD), ("code", code)];
            web.send_form("/sign-in", &fields).code
        };
        assert_eq!(attempt("n2", ""), 401, "a password alone");
        // Another code than the one that was shown when it was added: each opens once.
        std::thread::sleep(Duration::from_secs(31 - now() % 30));
        let shown = code(&key, now());
        assert_eq!(attempt("n3", &shown), 303);
        assert_eq!(
            attempt("n1", &shown),
            401,
            "somebody looked over a shoulder"
        );
    });
}
