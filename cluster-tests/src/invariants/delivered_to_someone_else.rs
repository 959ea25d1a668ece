//! A message goes to its own recipients, at their own domain's primary, from its own sender.

use super::Verdict;
use crate::history::History;

#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut tried = 0;
    let mut strayed = Vec::new();
    for (delivery, a_try) in history.deliveries_of_tries() {
        let what = format!("attempt {} of letter {}", a_try.attempt.0, a_try.letter);
        if delivery.reverse_path != a_try.reverse_path {
            strayed.push(format!(
                "{what} was sent by <{}> and delivered as from <{}>",
                a_try.reverse_path, delivery.reverse_path
            ));
        }
        for to in delivery.recipients {
            tried += 1;
            if !a_try.recipients.contains(to) {
                strayed.push(format!(
                    "{what} was delivered to {to}, who is none of its recipients"
                ));
            }
            let domain = to.rsplit('@').next().unwrap_or_default();
            if domain != delivery.primary {
                strayed.push(format!(
                    "{what} for {to} was given to the primary of {}",
                    delivery.primary
                ));
            }
        }
    }
    Verdict::of(tried, strayed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Event;
    use crate::history::sketch::{attempt, delivered, history, replied};

    fn one_delivery(change: impl FnOnce(&mut String, &mut String, &mut Vec<String>)) -> Verdict {
        let to = &["a@example.test", "b@example.test"][..];
        let mut delivery = delivered(1, to);
        let Event::Delivered {
            primary,
            reverse_path,
            recipients,
            ..
        } = &mut delivery
        else {
            unreachable!()
        };
        change(primary, reverse_path, recipients);
        check(&history(&[attempt(1, 1, to), replied(1, 250), delivery]))
    }

    #[test]
    fn another_recipient_another_primary_and_another_sender_are_noticed() {
        let changes: [fn(&mut String, &mut String, &mut Vec<String>); 4] = [
            |_, _, recipients| recipients[0] = "c@example.test".into(),
            |_, _, recipients| recipients.push("b@other.test".into()),
            |primary, _, _| *primary = "other.test".into(),
            |_, reverse_path, _| reverse_path.clear(),
        ];
        for change in changes {
            assert!(matches!(one_delivery(change), Verdict::Broken { .. }));
        }
    }

    #[test]
    fn its_own_recipients_may_come_in_parts() {
        assert_eq!(one_delivery(|_, _, _| {}), Verdict::Holds { tried: 2 });
        assert_eq!(
            one_delivery(|_, _, recipients| recipients.truncate(1)),
            Verdict::Holds { tried: 1 }
        );
    }
}
