//! What went wrong, why, and what to do: the one shape of every error on this command line.

use std::fmt;
use std::io;
use std::process::ExitCode;

/// The exit codes, the same for every command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    /// The question was answered, and the answer is not good.
    Unhealthy = 3,
    Unreachable = 4,
    /// A safety check said no; nothing was changed.
    Refused = 5,
    NotFound = 6,
    /// Of `serve`: the node was removed from its cluster, and to start it again would be in vain.
    Removed = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

#[derive(Debug)]
pub(crate) struct Failure {
    exit: Exit,
    what: String,
    why: String,
    fix: Option<String>,
}

impl Failure {
    pub(crate) fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self {
            exit: Exit::Failed,
            what: what.into(),
            why: why.to_string(),
            fix: None,
        }
    }

    #[must_use]
    pub(crate) fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    #[must_use]
    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Adds to the reason.
    #[must_use]
    pub(crate) fn because(mut self, reasons: Vec<String>) -> Self {
        for reason in reasons {
            self.why.push_str("; ");
            self.why.push_str(&reason);
        }
        self
    }

    /// What a node answered to a request; `what` is that which was asked of it.
    pub(crate) fn from_status(what: impl Into<String>, status: &tonic::Status) -> Self {
        use tonic::Code;
        let exit = match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => Exit::Unreachable,
            Code::FailedPrecondition | Code::PermissionDenied => Exit::Refused,
            Code::NotFound => Exit::NotFound,
            Code::InvalidArgument => Exit::Usage,
            _ => Exit::Failed,
        };
        // A node may send its advice in a line of its own.
        let (why, advice) = match status.message().split_once("\nfix: ") {
            Some((why, fix)) => (why, Some(fix)),
            None => (status.message(), None),
        };
        let failure = Self::new(
            what,
            if why.is_empty() {
                "the node gave no reason"
            } else {
                why
            },
        )
        .exit(exit);
        match (advice, exit) {
            (Some(fix), _) => failure.fix(fix),
            (None, Exit::Unreachable) => {
                failure.fix("see `holdfast status`, and the log of the node that was asked")
            }
            _ => failure,
        }
    }

    /// The same request may succeed in a moment.
    pub(crate) fn is_passing(&self) -> bool {
        self.exit == Exit::Unreachable
    }

    /// Prints to standard error and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("{self}");
        self.exit.into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}\n  why: {}", self.what, self.why)?;
        match &self.fix {
            Some(fix) => write!(f, "\n  fix: {fix}"),
            None => Ok(()),
        }
    }
}

/// Standard output could not be written.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new("the answer could not be printed", error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_a_node_becomes_an_error_with_reason_and_advice() {
        let status =
            tonic::Status::failed_precondition("2 of 2 voters are needed\nfix: add a node first");
        let failure = Failure::from_status("n1 cannot leave", &status);
        assert_eq!(
            failure.to_string(),
            "error: n1 cannot leave\n  why: 2 of 2 voters are needed\n  fix: add a node first"
        );
        assert_eq!(failure.exit, Exit::Refused);
    }

    #[test]
    fn each_kind_of_answer_has_its_exit_code() {
        use tonic::Code;
        for (code, exit) in [
            (Code::Unavailable, Exit::Unreachable),
            (Code::DeadlineExceeded, Exit::Unreachable),
            (Code::FailedPrecondition, Exit::Refused),
            (Code::PermissionDenied, Exit::Refused),
            (Code::NotFound, Exit::NotFound),
            (Code::InvalidArgument, Exit::Usage),
            (Code::Internal, Exit::Failed),
            (Code::AlreadyExists, Exit::Failed),
        ] {
            let failure = Failure::from_status("x", &tonic::Status::new(code, "y"));
            assert_eq!(failure.exit, exit, "{code:?}");
        }
    }
}
