//! The table of mutants names each of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn each_mutant_has_its_row_in_the_table() {
    let room = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = fs::read_dir(room.join("mutants")).expect("the folder is there");
    let mutants: BTreeSet<String> = files
        .map(|file| file.expect("it can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "patch"))
        .map(|path| path.file_stem().expect("it has a name").to_string_lossy().into_owned())
        .collect();
    let readme = fs::read_to_string(room.join("README.md")).expect("it is there");
    let (_, table) = readme.split_once("\n| mutant |").expect("there is a table of mutants");
    let rows = table.lines().skip(2).take_while(|line| !line.is_empty());
    let named: BTreeSet<String> = rows
        .map(|row| {
            let name = row.strip_prefix("| `").and_then(|row| row.split_once("` | "));
            name.unwrap_or_else(|| panic!("no row: {row}")).0.to_owned()
        })
        .collect();
    assert_eq!(named, mutants);
}
