//! A customer looks after the mail of a server that is down, in a browser.

use std::time::Duration;

use holdfast_cluster_tests::harness::Sandbox;
use holdfast_cluster_tests::story::{Browser, Mailbox, Zone, send};

use crate::{
    BOB, DOMAIN, JOE, NAME, SOON, add_account, apart, beside_others, portal, sign_in, subjects,
};

const DESK: (u32, u32) = (1100, 900);
const PHONE: (u32, u32) = (420, 860);

#[test]
fn a_customer_sees_that_mail_is_safe_decides_about_it_and_watches_it_arrive() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        let mut sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        add_account(&sandbox);
        for subject in ["one", "=?UTF-8?Q?zw=C3=B6lf?=", "three", "four"] {
            let answer = send(sandbox.node("n1").smtp, BOB, JOE, subject);
            assert_eq!(answer.code, 250, "{answer:?}");
        }

        let browser = Browser::start();
        let page = browser.open(DESK, true);
        page.go(&portal(&sandbox, "n1"));
        page.expect("Sign in");
        page.picture("1-sign-in");
        page.fill("input[name=name]", NAME);
        page.fill("input[name=password]", "a wrong one");
        page.click("form.card button");
        page.expect("That did not work");
        sign_in(&page, &portal(&sandbox, "n1"));
        page.expect("Holding 4 messages");
        page.expect("safe on 3 nodes in 3 regions");
        page.expect("This page is live");
        page.picture("2-holding");

        // One is deleted, and had back; another is kept back.
        page.go(&format!("{}/d/{DOMAIN}/mail", portal(&sandbox, "n1")));
        page.expect("zw\u{f6}lf");
        page.picture("3-mail");
        page.click("tbody tr:nth-child(1) input[type=checkbox]");
        page.press("Delete");
        page.expect("1 message deleted");
        page.press("Undo");
        page.expect("1 message had back");
        page.click("tbody tr:nth-child(3) input[type=checkbox]");
        page.press("Keep back");
        page.expect("1 message kept back");

        // The node goes; another one serves the same session.
        page.go(&format!("{}/d/{DOMAIN}", portal(&sandbox, "n1")));
        sandbox.kill("n1");
        let other = portal(&sandbox, "n2");
        page.go(&format!("{other}/d/{DOMAIN}"));
        page.expect("Holding 3 messages");
        page.press("Deliver now");
        page.expect("Delivery of 3 messages was started");

        // Nobody touches the page: it tells by itself that the server is back.
        mailbox.come_up();
        page.expect("All delivered");
        page.picture("4-delivered");
        let received = mailbox.wait_for(3, SOON);
        assert_eq!(
            subjects(&received),
            ["one", "=?UTF-8?Q?zw=C3=B6lf?=", "four"]
        );

        page.go(&format!("{other}/d/{DOMAIN}/mail?state=aside"));
        page.expect("three");
        page.click("tbody input[type=checkbox]");
        page.press("Release");
        page.expect("1 message will be delivered");
        assert_eq!(mailbox.wait_for(4, SOON)[3].subject(), "three");

        page.go(&format!("{other}/d/{DOMAIN}/log"));
        page.expect("release 1 message");
        page.expect("hold 1 message");
        page.picture("5-log");
        assert_eq!(page.complaints(), Vec::<String>::new());
    });
}

#[test]
fn everything_works_without_scripts_and_on_a_telephone() {
    let _turn = beside_others();
    apart(|| {
        let mailbox = Mailbox::new();
        let sandbox = Sandbox::start(3, DOMAIN, mailbox.address());
        add_account(&sandbox);
        let send = |to: &str| send(sandbox.node("n3").smtp, BOB, to, "hello").code;
        assert_eq!(send(JOE), 250);

        let browser = Browser::start();
        let page = browser.open(PHONE, false);
        let at = portal(&sandbox, "n3");
        sign_in(&page, &at);
        page.expect("Holding 1 message");
        assert!(!page.text().contains("This page is live"), "scripts ran");
        page.picture("6-telephone");

        // From now on only those listed get mail, at every node.
        page.go(&format!("{at}/d/{DOMAIN}/recipients"));
        page.fill("textarea[name=add]", "joe\nann@example.test\n");
        page.press("Change");
        page.expect("2 names listed");
        page.click("input[value=listed]");
        page.press("Save");
        page.expect("Changed.");
        page.picture("7-recipients");
        assert_eq!(send("nobody@example.test"), 550);
        assert_eq!(send(JOE), 250);

        page.go(&format!("{at}/d/{DOMAIN}/settings"));
        page.click("select[name=hold] option[value='2592000000']");
        page.press("Save");
        page.expect("Saved.");
        page.picture("8-settings");
        let shown = sandbox.must("n1", &["domain", "show", DOMAIN]);
        assert_eq!(shown["policy"]["hold_seconds"], 2_592_000.0, "{shown}");

        // Signed out here is signed out everywhere.
        page.press("Sign out");
        page.expect("Sign in");
        page.go(&format!("{}/d/{DOMAIN}", portal(&sandbox, "n1")));
        page.expect("Password");
    });
}

const NAMES: &str = "n1.holdfast.test. A 192.0.2.1
n2.holdfast.test. A 192.0.2.2
n3.holdfast.test. A 192.0.2.3
example.test. TXT here
";

#[test]
fn a_customer_copies_the_zone_lines_and_sees_what_is_wrong_with_theirs() {
    let _turn = beside_others();
    apart(|| {
        let mut mailbox = Mailbox::new();
        mailbox.come_up();
        let zone = Zone::new(Duration::from_secs(1));
        zone.says(NAMES);
        let dns = zone.address().to_string();
        let sandbox = Sandbox::start_with(3, DOMAIN, mailbox.address(), &["--dns", &dns]);
        add_account(&sandbox);
        let browser = Browser::start();
        let page = browser.open(PHONE, false);
        let at = portal(&sandbox, "n2");
        sign_in(&page, &at);
        page.go(&format!("{at}/d/{DOMAIN}/dns"));
        page.expect("What your zone should say");
        page.press("Check now");
        page.expect("example.test has no MX record");
        page.expect("What to do: add the lines below");
        page.picture("9-dns-telephone");

        // What stands there for copying is what `domain dns` prints, and it is right.
        let lines = sandbox.must("n1", &["domain", "dns", DOMAIN]);
        let lines = lines["records"].as_array().expect("lines");
        let lines: Vec<&str> = lines.iter().filter_map(|line| line.as_str()).collect();
        zone.says(&format!("{NAMES}{}", lines.join("\n")));
        let page = browser.open(DESK, true);
        sign_in(&page, &portal(&sandbox, "n3"));
        page.go(&format!("{}/d/{DOMAIN}/dns", portal(&sandbox, "n3")));
        page.press("Check now");
        page.expect("our 3 nodes stand behind it");
        page.picture("10-dns");
        assert_eq!(page.complaints(), Vec::<String>::new());

        // Everything that a customer may say of a domain is on one page.
        page.go(&format!("{}/d/{DOMAIN}/settings", portal(&sandbox, "n3")));
        page.click("input[name=up][value=defer]");
        page.click("select[name=probe] option[value='900000']");
        page.click("select[name=yes] option[value='604800000']");
        page.click("select[name=no] option[value='3600000']");
        page.press("Save");
        page.expect("Saved.");
        page.picture("11-settings");
        let shown = sandbox.must("n1", &["domain", "show", DOMAIN]);
        let policy = &shown["policy"];
        assert_eq!(policy["probe_seconds"], 900.0, "{shown}");
        assert_eq!(policy["keep_yes_seconds"], 604_800.0, "{shown}");
        assert_eq!(policy["keep_no_seconds"], 3600.0, "{shown}");
        assert_eq!(policy["while_up"], "defer", "{shown}");
    });
}
