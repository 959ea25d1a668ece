//! Every limit of the server side of SMTP, with its unit and its reason.

use std::time::Duration;

/// A command line, bytes, CRLF included. RFC 5321 section 4.5.3.1.4 asks for 512; MAIL and RCPT
/// grow by their parameters (SIZE 26, BODY 17, SMTPUTF8 10, RET and ENVID 117, AUTH 500, NOTIFY and
/// ORCPT 528), and internationalised paths are longer than their ASCII kin.
pub const COMMAND_BYTES_MAX: usize = 2048;

// Domain 255 and path 256 octets (RFC 5321 sections 4.5.3.1.2 and 4.5.3.1.3) are limits of
// addresses wherever they occur: `holdfast_mail::address` has them.
//
// A line of content has no limit here. RFC 5321 section 4.5.3.1.6 promises senders 1000 octets,
// but longer lines are common, and a server that chops them makes new lines, among them lone
// dots. They are handed on as they came; the size of the message bounds them.

/// Recipients of one message. RFC 5321 section 4.5.3.1.8 asks for at least 100; the envelope is
/// one log entry, so it must stay small beside a message. Told as RCPTMAX (RFC 9422).
pub const RECIPIENTS_MAX: usize = 1000;

/// Messages in one session, told as MAILMAX (RFC 9422): a sender that has more is served, after
/// others had their turn, and finds its way to a node that was restarted in between.
pub const MESSAGES_MAX: usize = 1000;

/// Commands of one session that were wrong in themselves. A client that errs so often is broken,
/// or is no mail client.
pub const ERRORS_MAX: usize = 20;

/// Recipients refused for good in one session. More than errors, because an honest sender may
/// have a long list for a domain that has just left; not many more, because guessing works by
/// trying.
pub const REFUSED_RECIPIENTS_MAX: usize = 100;

/// Recipients put off (4xx) in one session, but for those beyond [`RECIPIENTS_MAX`]. An honest sender
/// whose mail waits for a primary has hundreds, and comes again; whoever has names looked up that nobody
/// has, does not stop by themselves.
pub const PUT_OFF_RECIPIENTS_MAX: usize = 300;

/// Recipients beyond [`RECIPIENTS_MAX`] in one session. An exploder that sends all that it has at once gets
/// those through that were taken before (RFC 5321 section 4.5.3.1.10); whoever does not hear that there are
/// too many would go on for ever.
pub const SURPLUS_RECIPIENTS_MAX: usize = 10_000;

/// Commands that carry no mail (NOOP, RSET, HELO, VRFY, HELP, ETRN …, chunks of nothing, and MAIL
/// or content that was refused), between one message and the next. Each costs little; a connection that lives on them takes another sender's place.
pub const IDLE_COMMANDS_MAX: usize = 100;

/// Pieces of content handed to the shell, bytes: what one session holds in memory beside its
/// read buffer.
pub const PIECE_BYTES: usize = 64 << 10;

/// One BDAT chunk, bytes (RFC 3030 sets no limit). A longer one is no mail of ours.
pub const CHUNK_BYTES_MAX: u64 = 1 << 30;

/// Content read and dropped behind the size limit, bytes, so that an honest sender reaches its
/// final dot and reads why; then the connection ends.
pub const DROPPED_BYTES_MAX: u64 = 256 << 20;

/// Waiting for a whole command (RFC 5321 section 4.5.3.2.7: "at least 5 minutes"). A byte now and
/// then does not prolong it.
pub const COMMAND_TIME_MAX: Duration = Duration::from_secs(300);

/// Waiting for a block of [`TIMED_BLOCK_BYTES`] or the end of the content. RFC 5321 section
/// 4.5.3.2.5 lets senders wait 3 minutes within one block; 5 are granted.
pub const CONTENT_TIME_MAX: Duration = Duration::from_secs(300);

/// Content that buys [`CONTENT_TIME_MAX`] more, bytes: with it the slowest sender that is waited
/// for has 500 bytes a second, slower than any line that still carries mail.
pub const TIMED_BLOCK_BYTES: u64 = 150_000;

/// A TLS handshake agreed on by STARTTLS. RFC 3207 names no time; a minute covers slow hosts.
pub const TLS_TIME_MAX: Duration = Duration::from_secs(60);
