//! Whether mail should be sent to this node, in the manner of Kubernetes' `/readyz`.

use axum::http::StatusCode;

/// One thing that must be so for the node to be ready.
#[derive(Clone, Debug)]
pub struct Check {
    pub name: &'static str,
    /// What is wrong, in words for an operator.
    pub outcome: Result<(), &'static str>,
}

impl Check {
    /// `name` is well if `good`; otherwise it is told `why` not.
    #[must_use]
    pub fn that(name: &'static str, good: bool, why: &'static str) -> Self {
        let outcome = if good { Ok(()) } else { Err(why) };
        Self { name, outcome }
    }
}

/// `?verbose`, alone or among others, with or without a value.
pub(super) fn is_verbose(query: Option<&str>) -> bool {
    query.is_some_and(|query| {
        query
            .split('&')
            .any(|part| part.split('=').next() == Some("verbose"))
    })
}

/// What fails is always named; what is well only when asked for.
pub(super) fn answer(checks: &[Check], verbose: bool) -> (StatusCode, String) {
    let ready = checks.iter().all(|check| check.outcome.is_ok());
    if ready && !verbose {
        return (StatusCode::OK, "ok\n".to_owned());
    }
    let mut text = String::new();
    for check in checks {
        match check.outcome {
            Ok(()) if verbose => text += &format!("[+]{} ok\n", check.name),
            Ok(()) => {}
            Err(why) => text += &format!("[-]{} failed: {why}\n", check.name),
        }
    }
    if ready {
        text += "readyz check passed\n";
        (StatusCode::OK, text)
    } else {
        text += "readyz check failed\n";
        (StatusCode::SERVICE_UNAVAILABLE, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks(quorum: bool) -> [Check; 2] {
        [
            Check::that("disk", true, "nearly full"),
            Check::that("quorum", quorum, "no leader"),
        ]
    }

    #[test]
    fn a_ready_node_says_ok_and_with_verbose_each_check() {
        let (status, text) = answer(&checks(true), false);
        assert_eq!((status.as_u16(), text.as_str()), (200, "ok\n"));
        let (status, text) = answer(&checks(true), true);
        assert_eq!(status.as_u16(), 200);
        assert_eq!(text, "[+]disk ok\n[+]quorum ok\nreadyz check passed\n");
    }

    #[test]
    fn one_failed_check_makes_it_unready_and_is_named_without_being_asked() {
        let (status, text) = answer(&checks(false), false);
        assert_eq!(status.as_u16(), 503);
        assert_eq!(text, "[-]quorum failed: no leader\nreadyz check failed\n");
        let (status, text) = answer(&checks(false), true);
        assert_eq!(status.as_u16(), 503);
        assert!(text.starts_with("[+]disk ok\n[-]quorum failed"), "{text}");
    }

    #[test]
    fn verbose_is_found_in_any_place_of_the_query_and_only_whole() {
        for query in ["verbose", "verbose=1", "a=b&verbose"] {
            assert!(is_verbose(Some(query)), "{query}");
        }
        for query in ["", "verbosely", "a=verbose"] {
            assert!(!is_verbose(Some(query)), "{query}");
        }
        assert!(!is_verbose(None));
    }
}
