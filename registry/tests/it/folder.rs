//! Schemas from files.

use std::fs;

use tracklog_registry::Registered;

use crate::rig::{Rig, registry};

#[tokio::test]
async fn files_register_once_by_name_and_version() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("Order%20Completed.json", r#"{"type": "object"}"#);
    write("a%2Fb@10.json", r#"{"maxProperties": 10}"#);
    write("a%2Fb@2.json", r#"{"maxProperties": 2}"#);
    write("%24page.json", "true");
    write("README.md", "no schema");
    write(".hidden.json", "no schema");
    let rig = Rig::new();
    for restart in 0..2 {
        let registry = rig.open().await;
        let entries = registry.load_folder(folder.path()).await.unwrap();
        let outcomes = entries.into_iter().map(|entry| {
            let (name, registered) = entry.outcome.unwrap();
            (name.to_string(), registered)
        });
        let created = restart == 0;
        let registered = |name: &str, version| (name.to_owned(), Registered { version, created });
        assert_eq!(
            outcomes.collect::<Vec<_>>(),
            [
                registered("$page", 1),
                registered("Order Completed", 1),
                registered("a/b", 2),
                registered("a/b", 10),
            ]
        );
        assert_eq!(registry.versions("a/b"), Ok(vec![2, 10]));
    }
}

#[tokio::test]
async fn a_bad_file_is_told_in_one_line_and_costs_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| fs::write(folder.path().join(name), text).unwrap();
    write("good.json", b"{}");
    write("broken.json", b"{");
    write("remote.json", br#"{"$ref": "https://example.com/x"}"#);
    write("bytes.json", b"\xff\xfe");
    write("zero@0.json", b"{}");
    write("%00.json", b"{}");
    write("large.json", &vec![b' '; 1 << 20]);
    fs::create_dir(folder.path().join("dir.json")).unwrap();
    let registry = registry().await;
    let entries = registry.load_folder(folder.path()).await.unwrap();
    assert_eq!(entries.len(), 8);
    for entry in entries {
        let file = entry.file.file_name().unwrap().to_string_lossy().into_owned();
        match entry.outcome {
            Ok(_) => assert_eq!(file, "good.json"),
            Err(error) => {
                let line = error.to_string();
                assert!(line.contains(&file) && !line.contains('\n'), "{line}");
                assert!(file != "good.json");
            }
        }
    }
    assert_eq!(registry.list().len(), 1);
    assert!(registry.load_folder(&folder.path().join("missing")).await.is_err());
}
