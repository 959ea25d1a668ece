//! What must hold of any bytes, whoever sent them.
//!
//! A target is a function from bytes that panics where a promise is broken. The same functions
//! run in two ways: [`play`] replays the corpus and seeded mutations of it on every test run, and
//! `ops/fuzz TARGET SECONDS` looks for new inputs by coverage. What it finds goes into
//! `corpus/TARGET/`, and is replayed from then on.

mod apply;
mod bdat;
mod choices;
mod dsn;
mod entries;
mod finger;
mod identity;
mod mime;
mod play;
mod primary;
mod random;
mod reference;
mod server;
mod session;
mod starttls;
mod words;

pub use apply::apply;
pub use bdat::bdat;
pub use choices::Choices;
pub use dsn::dsn;
pub use entries::entries;
pub use finger::finger;
pub use identity::identity;
pub use play::{Target, play, seed, times};
pub use primary::primary;
pub use random::Random;
pub use reference::{ENDS_OF_DATA, content, is_strict, lenient_ends, stuffed};
pub use session::session;
pub use starttls::starttls;
pub use words::words;

/// Every target, the words its inputs are made of, and how many inputs a test run tries.
pub const TARGETS: &[Target] = &[
    Target {
        name: "session",
        run: session,
        words: server::WORDS,
        rounds: 120_000,
    },
    Target {
        name: "identity",
        run: identity,
        words: reference::WORDS,
        rounds: 80_000,
    },
    Target {
        name: "bdat",
        run: bdat,
        words: reference::WORDS,
        rounds: 150_000,
    },
    Target {
        name: "starttls",
        run: starttls,
        words: server::WORDS,
        rounds: 80_000,
    },
    Target {
        name: "primary",
        run: primary,
        words: primary::WORDS,
        rounds: 600_000,
    },
    Target {
        name: "words",
        run: words,
        words: words::WORDS,
        rounds: 400_000,
    },
    Target {
        name: "finger",
        run: finger,
        words: finger::WORDS,
        rounds: 600_000,
    },
    Target {
        name: "dsn",
        run: dsn,
        words: dsn::WORDS,
        rounds: 70_000,
    },
    Target {
        name: "entries",
        run: entries,
        words: &[],
        rounds: 400_000,
    },
    Target {
        name: "apply",
        run: apply,
        words: &[],
        rounds: 24_000,
    },
];
