//! A message goes to its own recipients, at their own domain's primary.

use super::Verdict;
use crate::history::History;

#[must_use]
pub fn check(history: &History) -> Verdict {
    let mut tried = 0;
    let mut strayed = Vec::new();
    for (delivery, a_try) in history.deliveries_of_tries() {
        let what = format!("attempt {} of letter {}", a_try.attempt.0, a_try.letter);
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

    fn one_delivery(change: impl FnOnce(&mut String, &mut Vec<String>)) -> Verdict {
        let to = &["a@example.test", "b@example.test"][..];
        let mut delivery = delivered(1, to);
        let Event::Delivered {
            primary,
            recipients,
            ..
        } = &mut delivery
        else {
            unreachable!()
        };
        change(primary, recipients);
        check(&history(&[attempt(1, 1, to), replied(1, 250), delivery]))
    }

    #[test]
    fn another_recipient_and_another_primary_are_noticed() {
        let changes: [fn(&mut String, &mut Vec<String>); 3] = [
            |_, recipients| recipients[0] = "c@example.test".into(),
            |_, recipients| recipients.push("b@other.test".into()),
            |primary, _| *primary = "other.test".into(),
        ];
        for change in changes {
            assert!(matches!(one_delivery(change), Verdict::Broken { .. }));
        }
    }

    #[test]
    fn its_own_recipients_may_come_in_parts() {
        assert_eq!(one_delivery(|_, _| {}), Verdict::Holds { tried: 2 });
        assert_eq!(
            one_delivery(|_, recipients| recipients.truncate(1)),
            Verdict::Holds { tried: 1 }
        );
    }
}
