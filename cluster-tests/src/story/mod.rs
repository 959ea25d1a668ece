//! What a customer's story needs: a mail server that can be away, somebody who sends, and a browser.

mod browser;
mod mailbox;
mod post;

pub use browser::{Browser, Page};
pub use mailbox::{Mailbox, Received};
pub use post::{Answer, send};
