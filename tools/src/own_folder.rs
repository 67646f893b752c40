//! Folders of verbs that run a node of their own: made anew at each start, and never a stranger's.
//!
//! Called by `demo` and `torture`.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use tracklog_server::folder::{DataFolder, VERB_MARK};
use tracklog_server::offline::is_held;

use crate::failure::Failure;

/// A folder with this file in it was made by the verb.
fn marker_of(verb: &str) -> String {
    format!("{VERB_MARK}{verb}")
}

/// Makes the folder of `verb`; removes what an earlier run of it left there: what is a node's, and
/// `besides`. `held_by` is what of it a node may hold.
pub(crate) fn make_anew(
    path: &Path,
    verb: &str,
    besides: &[&str],
    held_by: &Path,
) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::of(path.display(), error);
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(_) => remove_old(path, verb, besides, held_by)?,
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    File::create(path.join(marker_of(verb))).map(drop).map_err(failed)
}

fn remove_old(path: &Path, verb: &str, besides: &[&str], held_by: &Path) -> Result<(), Failure> {
    let refuse = |what: String| Err(Failure::of(path.display(), what));
    let failed = |error: io::Error| Failure::of(path.display(), error);
    if fs::read_dir(path).map_err(failed)?.next().is_none() {
        return Ok(());
    }
    if !path.join(marker_of(verb)).is_file() {
        return refuse(format!(
            "no `{verb}` made this folder, so it is left alone: choose another with --data"
        ));
    }
    if let Some(name) = DataFolder::at(path).first_foreign(besides).map_err(failed)? {
        return refuse(format!(
            "it holds {name:?}, which no `{verb}` made, so it is left alone: choose another with \
             --data"
        ));
    }
    match is_held(held_by) {
        Ok(false) => empty(path, &marker_of(verb)).map_err(failed),
        Ok(true) => {
            refuse(format!("a `{verb}` runs in it: stop that one, or choose another with --data"))
        }
        Err(error) => Err(failed(error)),
    }
}

/// The mark stays: a removal that is interrupted is taken up by the next run.
fn empty(path: &Path, mark: &str) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name() == mark {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => fs::remove_dir_all(entry.path())?,
            false => fs::remove_file(entry.path())?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKER: &str = "made-by-tracklog-demo";

    #[test]
    fn a_stranger_s_folder_is_left_alone_and_one_s_own_is_made_anew() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("demo");
        let make = |path: &Path| make_anew(path, "demo", &["node.log"], path);
        make(&path).unwrap();
        fs::create_dir(path.join("journal")).unwrap();
        for name in ["journal/slot-00000000", "default.key", "node.log"] {
            fs::write(path.join(name), "x").unwrap();
        }
        make(&path).unwrap();
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1, "the mark alone");
        for precious in ["notes.md", "tracklog.toml"] {
            fs::write(path.join(precious), "x").unwrap();
            assert!(make(&path).is_err(), "a stranger's file in one's own folder");
            fs::remove_file(path.join(MARKER)).unwrap();
            assert!(make(&path).is_err());
            fs::remove_file(path.join(precious)).expect("it was left alone");
            make(&path).unwrap();
        }
        let file = parent.path().join("file");
        fs::write(&file, "x").unwrap();
        assert!(make(&file).is_err() && file.exists());
    }
}
