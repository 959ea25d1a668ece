//! What the envelope says beside the recipients is delivered as it was handed over: the sender's
//! path, and what MAIL declares of the message.

use super::Verdict;
use crate::history::History;

#[must_use]
pub fn check(history: &History) -> Verdict {
    let deliveries = history.deliveries_of_tries();
    let mut changed = Vec::new();
    for (delivery, a_try) in &deliveries {
        let what = format!("attempt {} of letter {}", a_try.attempt.0, a_try.letter);
        if delivery.reverse_path != a_try.reverse_path {
            changed.push(format!(
                "{what} was sent by <{}> and delivered as from <{}>",
                a_try.reverse_path, delivery.reverse_path
            ));
        }
        if delivery.parameters != a_try.parameters {
            changed.push(format!(
                "{what} was sent with {:?} and delivered with {:?}",
                a_try.parameters, delivery.parameters
            ));
        }
    }
    Verdict::of(deliveries.len(), changed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Event;
    use crate::history::sketch::{attempt, delivered, history, replied};

    const TO: &[&str] = &["a@example.test"];

    fn one_delivery(change: impl FnOnce(&mut String, &mut Vec<String>)) -> Verdict {
        let mut delivery = delivered(1, TO);
        let Event::Delivered {
            reverse_path,
            parameters,
            ..
        } = &mut delivery
        else {
            unreachable!()
        };
        change(reverse_path, parameters);
        check(&history(&[attempt(1, 1, TO), replied(1, 250), delivery]))
    }

    #[test]
    fn another_sender_and_another_parameter_are_noticed() {
        let changes: [fn(&mut String, &mut Vec<String>); 3] = [
            |reverse_path, _| reverse_path.clear(),
            |reverse_path, _| *reverse_path = reverse_path.to_uppercase(),
            |_, parameters| parameters.clear(),
        ];
        for change in changes {
            assert!(matches!(one_delivery(change), Verdict::Broken { .. }));
        }
    }

    #[test]
    fn an_envelope_as_it_was_is_lawful() {
        assert_eq!(one_delivery(|_, _| {}), Verdict::Holds { tried: 1 });
    }
}
