//! The examples run as they are, without root, on loopback.

use std::fs;
use std::path::Path;

#[test]
fn examples_are_right_and_stay_on_loopback() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the examples are part of the checkout") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        count += 1;
        let text = fs::read_to_string(&path).expect("the file can be read");
        let checked = match config::load(&path.display().to_string(), &text) {
            Ok(checked) => checked,
            Err(errors) => panic!("{}", errors.iter().map(|error| format!("{error}\n")).collect::<String>()),
        };
        assert!(checked.warnings.is_empty(), "{}: {:?}", path.display(), checked.warnings);
        for farm in &checked.settings.farms {
            assert!(farm.listeners.iter().all(|listener| listener.bind.ip().is_loopback()), "{}", path.display());
            assert!(farm.backends.iter().all(|backend| backend.address.ip().is_loopback()), "{}", path.display());
        }
    }
    assert!(count >= 4, "only {count} examples");
}
