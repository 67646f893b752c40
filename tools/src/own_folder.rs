//! Folders of verbs that run a node of their own: made anew at each start, and never a stranger's.
//!
//! Called by `demo` and `torture`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use tracklog_server::offline::is_held;

use crate::failure::Failure;

/// A folder with this file in it was made by the verb.
fn marker_of(verb: &str) -> String {
    format!("made-by-tracklog-{verb}")
}

/// Makes the folder of `verb`; removes what an earlier run of it left there. `held_by` is what of
/// it a node may hold.
pub(crate) fn make_anew(path: &Path, verb: &str, held_by: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::of(path.display(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(_) => remove_old(path, verb, held_by)?,
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    File::create(path.join(marker_of(verb))).map(drop).map_err(failed)
}

fn remove_old(path: &Path, verb: &str, held_by: &Path) -> Result<(), Failure> {
    let refuse = |what: String| Err(Failure::of(path.display(), what));
    if fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()) {
        return Ok(());
    }
    if !path.join(marker_of(verb)).is_file() {
        return refuse(format!(
            "no `{verb}` made this folder, so it is left alone: choose another with --data"
        ));
    }
    match is_held(held_by) {
        Ok(false) => fs::remove_dir_all(path).map_err(|error| Failure::of(path.display(), error)),
        Ok(true) => {
            refuse(format!("a `{verb}` runs in it: stop that one, or choose another with --data"))
        }
        Err(error) => Err(Failure::of(path.display(), error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "made-by-tracklog-demo";

    #[test]
    fn a_stranger_s_folder_is_left_alone_and_one_s_own_is_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("demo");
        make_anew(&path, "demo", &path).unwrap();
        fs::write(path.join("old"), "x").unwrap();
        make_anew(&path, "demo", &path).unwrap();
        assert!(!path.join("old").exists() && path.join(MARKER).exists());
        fs::remove_file(path.join(MARKER)).unwrap();
        make_anew(&path, "demo", &path).unwrap();
        fs::remove_file(path.join(MARKER)).unwrap();
        fs::write(path.join("precious"), "x").unwrap();
        assert!(make_anew(&path, "demo", &path).is_err());
        assert!(path.join("precious").exists());
        let file = parent.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(make_anew(&file, "demo", &file).is_err() && file.exists());
    }
}
