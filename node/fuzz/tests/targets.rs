//! Every target on its corpus and on seeded mutations of it.

use std::path::Path;

use holdfast_fuzz::{TARGETS, play};

fn target(name: &str) {
    let target = TARGETS
        .iter()
        .find(|target| target.name == name)
        .expect("a target of this name");
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let begun = std::time::Instant::now();
    let tried = play(target, &corpus);
    println!("{name}: {tried} inputs in {:.1?}", begun.elapsed());
}

#[test]
fn a_session_means_the_same_however_its_bytes_were_cut() {
    target("session");
}

#[test]
fn content_is_delivered_as_it_was_taken() {
    target("identity");
}

#[test]
fn chunks_are_as_long_and_as_strict_as_they_say() {
    target("bdat");
}

#[test]
fn nothing_in_clear_counts_behind_the_handshake() {
    target("starttls");
}

#[test]
fn no_primary_can_talk_mail_away() {
    target("primary");
}

#[test]
fn words_that_were_accepted_are_accepted_again_and_break_no_line() {
    target("words");
}

#[test]
fn a_finger_line_asks_for_a_domain_or_for_nothing() {
    target("finger");
}

#[test]
fn a_notification_says_what_it_must_whatever_it_is_made_from() {
    target("dsn");
}

#[test]
fn entries_are_values_or_errors() {
    target("entries");
}

#[test]
fn any_log_can_be_applied_and_its_counts_are_exact() {
    target("apply");
}

#[test]
fn every_target_is_played() {
    let text = include_str!("targets.rs");
    for target in TARGETS {
        assert!(
            text.contains(&format!("target({:?});", target.name)),
            "{}",
            target.name
        );
    }
}
