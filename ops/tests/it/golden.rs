//! Text that is pinned: whoever changes what operators read, reads it first.

use std::fs;
use std::path::Path;

/// Compares with a file of ours. `BLESS=1` writes what was said into the file, to be read before it is
/// committed.
pub(crate) fn is_as_in(file: &str, said: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it")
        .join(file);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&file, said).expect("written");
        return;
    }
    let pinned = fs::read_to_string(&file).unwrap_or_default();
    let mut lines = said.lines().zip(pinned.lines()).enumerate();
    let differs = lines.find(|(_, (said, pinned))| said != pinned);
    if let Some((at, (said, pinned))) = differs {
        panic!(
            "{}:{}: pinned is\n{pinned}\nand said was\n{said}",
            file.display(),
            at + 1
        );
    }
    assert_eq!(
        said.lines().count(),
        pinned.lines().count(),
        "lines of {}",
        file.display()
    );
}
