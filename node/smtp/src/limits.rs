//! Every limit of the server side of SMTP, with its unit and its reason.

use std::time::Duration;

/// A command line, bytes, CRLF included. RFC 5321 section 4.5.3.1.4 asks for 512; MAIL and RCPT
/// grow by their parameters (SIZE 26, BODY 17, SMTPUTF8 10, RET and ENVID 117, NOTIFY and ORCPT
/// 528), and internationalised paths are longer than their ASCII kin.
pub const COMMAND_BYTES_MAX: usize = 2048;

/// Recipients of one message. RFC 5321 section 4.5.3.1.8 asks for at least 100; the envelope is
/// one log entry, so it must stay small beside a message.
pub const RECIPIENTS_MAX: usize = 1000;

/// Messages in one session, told as MAILMAX (RFC 9422): a sender that has more is served, after
/// others had their turn.
pub const MESSAGES_MAX: usize = 1000;

/// Refused or unknown commands in one session: nobody needs more, and guessing recipients does.
pub const ERRORS_MAX: usize = 20;

/// Pieces of content handed to the shell, bytes: what one session holds in memory beside its
/// read buffer.
pub const PIECE_BYTES: usize = 64 << 10;

/// One BDAT chunk, bytes (RFC 3030 sets no limit). A longer one is no mail of ours.
pub const CHUNK_BYTES_MAX: u64 = 1 << 30;

/// Waiting for a command (RFC 5321 section 4.5.3.2.7: at least 5 minutes).
pub const COMMAND_TIME_MAX: Duration = Duration::from_secs(300);

/// Waiting for content (RFC 5321 section 4.5.3.2.5 gives senders 3 minutes for one block; a
/// server waits at least as long as for a command).
pub const CONTENT_TIME_MAX: Duration = Duration::from_secs(300);
