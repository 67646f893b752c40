//! Restores: what they refuse, what they notice, and what is left of one that is killed.

use super::*;
use crate::offline;

#[tokio::test]
async fn rot_in_any_object_is_found_and_nothing_is_put_in_place() {
    let mut world = World::new();
    world.grow(150);
    world.make().await;
    let objects = world.objects().await;
    for (nth, path) in objects.iter().enumerate() {
        let location = object_store::path::Path::parse(path).unwrap();
        let good = world.objects.get(&location).await.unwrap().bytes().await.unwrap();
        let mut rotten = good.to_vec();
        let at = rotten.len() * (nth % 7) / 7;
        rotten[at] ^= 1;
        world.objects.put(&location, rotten.into()).await.unwrap();
        let error = world.restore("new", None).await.unwrap_err();
        let is_told = match &error {
            BackupError::Rotten { object } => path.ends_with(&**object),
            BackupError::Manifest(_) => path.starts_with("manifests/"),
            _ => false,
        };
        assert!(is_told, "{path}: {error}");
        world.objects.delete(&location).await.unwrap();
        assert!(world.restore("new", None).await.is_err(), "{path} is gone");
        assert!(!world.parent.path().join("new/journal").exists());
        world.objects.put(&location, good.into()).await.unwrap();
    }
    assert!(world.restore("new", None).await.unwrap().clean);
    assert_eq!(contents(&world.parent.path().join("new")), world.contents());
}

#[tokio::test]
async fn of_a_damaged_newest_manifest_the_one_before_is_restored() {
    let mut world = World::new();
    world.grow(50);
    world.make().await;
    let before = world.contents();
    world.make().await;
    world.grow(50);
    let newest = world.make().await.backup;
    let path = format!("manifests/{newest:016}.json");
    let location = object_store::path::Path::parse(path).unwrap();
    world.objects.put(&location, "{}".into()).await.unwrap();
    let mut passed = Vec::new();
    let folder = world.parent.path().join("new");
    let mut told = |told| {
        if let super::super::Told::Passed(why) = told {
            passed.push(why);
        }
    };
    let report = restore_from(&world.place(), &folder, None, &mut told).await.unwrap();
    assert_eq!((report.backup, passed.len()), (newest - 1, 1));
    assert_eq!(contents(&folder), before);
}

#[tokio::test]
async fn a_log_that_has_more_than_the_backup_is_left_alone() {
    let mut world = World::new();
    world.grow(60);
    world.make().await;
    world.grow(9);
    let all = world.contents();
    world.close();
    let error = world.restore("data", None).await.unwrap_err();
    let BackupError::Newer { why, .. } = &error else { panic!("{error}") };
    for told in ["raw/0 offsets 40 to 45", "raw/1 offsets 20 to 22"] {
        assert!(why.contains(told), "{why}");
    }
    assert_eq!(contents(&world.path()), all);
    assert!(!world.folder().file("restoring").exists());
    world.open();
    let error = world.restore("data", None).await.unwrap_err();
    assert!(
        matches!(&error, BackupError::Refused { why, .. } if why.contains("holds it")),
        "{error}"
    );
}

#[tokio::test]
async fn a_log_that_went_another_way_is_left_alone_and_so_is_another_s() {
    let mut world = World::new();
    world.grow(60);
    world.make().await;
    world.restore("fork", None).await.unwrap();
    let fork = world.parent.path().join("fork");
    let log = opened(&fork);
    (500..509).for_each(|number| append(&log, number));
    drop(log);
    world.grow(200);
    world.make().await;
    let all = contents(&fork);
    // The backup goes further than the fork in every partition, and lacks what is in that.
    let error = world.restore("fork", None).await.unwrap_err();
    assert!(matches!(error, BackupError::Newer { .. }), "{error}");
    // Nor is the fork backed up over the backups of the log.
    let log = opened(&fork);
    (600..999).for_each(|number| append(&log, number));
    drop(log);
    let mut backup = world.backup_of(&fork, Arc::clone(&world.objects)).await;
    let error = backup.make().await.unwrap_err();
    assert!(matches!(error, BackupError::Newer { .. }), "{error}");
    assert!(contents(&fork).iter().all(|(of, records)| records.len() > all[of].len()));

    let mut other = World::new();
    other.close();
    let restored = restore_from(&world.place(), &other.path(), None, &mut |_| {}).await;
    let error = restored.unwrap_err();
    assert!(matches!(error, BackupError::AnotherLog { .. }), "{error}");
    let mut backup = world.backup_of(&other.path(), Arc::clone(&world.objects)).await;
    let error = backup.make().await.unwrap_err();
    assert!(matches!(error, BackupError::AnotherLog { .. }), "{error}");
}

#[tokio::test]
async fn an_older_log_makes_way_and_stays_beside() {
    let mut world = World::new();
    world.grow(60);
    world.make().await;
    world.restore("new", None).await.unwrap();
    let new = world.parent.path().join("new");
    let older = contents(&new);
    std::fs::write(new.join("routes.toml"), "# mine\n").unwrap();
    std::fs::create_dir(new.join("state")).unwrap();
    std::fs::write(world.folder().file("routes.toml"), "# theirs\n").unwrap();
    world.grow(60);
    world.make().await;
    let report = world.restore("new", None).await.unwrap();
    let aside = report.replaced.unwrap();
    assert_eq!(aside, new.join("replaced-by-backup-2"));
    assert_eq!(contents(&aside), older);
    assert!(aside.join("state").is_dir() && !new.join("state").exists());
    assert_eq!(report.kept, ["routes.toml"]);
    assert_eq!(std::fs::read(new.join("routes.toml")).unwrap(), b"# mine\n");
    assert_eq!(contents(&new), world.contents());
    // Whoever runs it again loses nothing either.
    let again = world.restore("new", None).await.unwrap();
    assert_eq!(again.replaced, Some(new.join("replaced-by-backup-2-2")));
    assert_eq!(contents(&new), world.contents());
}

#[tokio::test]
async fn what_cannot_be_opened_or_is_a_stranger_s_is_left_alone() {
    let mut world = World::new();
    world.grow(60);
    world.make().await;
    world.close();
    for name in ["checkpoint-a", "checkpoint-b"] {
        std::fs::write(world.folder().file(name), "rotten").unwrap();
    }
    std::fs::write(world.folder().file("journal/slot-00000000"), vec![7; 1 << 20]).unwrap();
    let error = world.restore("data", None).await.unwrap_err();
    assert!(matches!(&error, BackupError::Refused { why, .. } if why.contains("nobody can tell")));
    let strange = world.parent.path().join("strange");
    std::fs::create_dir(&strange).unwrap();
    std::fs::write(strange.join("diary"), "").unwrap();
    let error = world.restore("strange", None).await.unwrap_err();
    assert!(matches!(error, BackupError::Folder(_)), "{error}");
    assert!(!strange.join("journal").exists());
    let error = world.restore("new", Some(9)).await.unwrap_err();
    assert!(matches!(error, BackupError::NoBackup { number: Some(9), .. }), "{error}");
}

#[tokio::test]
async fn a_restore_that_ends_at_any_step_opens_as_no_log_and_is_run_again() {
    let mut world = World::new();
    world.grow(60);
    std::fs::write(world.folder().file("routes.toml"), "# routes\n").unwrap();
    world.make().await;
    world.restore("old", None).await.unwrap();
    world.grow(60);
    world.make().await;
    let all = world.contents();
    let new = world.parent.path().join("new");
    for is_over_an_older_log in [false, true] {
        let mut step = 0;
        loop {
            if new.exists() {
                std::fs::remove_dir_all(&new).unwrap();
            }
            if is_over_an_older_log {
                copy_folder(&world.parent.path().join("old"), &new);
            }
            stopping_at(Some(step));
            let stopped = world.restore("new", None).await;
            stopping_at(None);
            if stopped.is_ok() {
                break;
            }
            if new.join("restoring").exists() {
                let opened = offline::open(&new, &mut |_| {});
                assert!(opened.is_err(), "step {step}: a half restored log opens");
                assert!(crate::verify::folder(&new, &mut |_| {}).is_err(), "step {step}");
                let settings = crate::config::JournalSettings::default();
                assert!(offline::make(&new, &settings).await.is_err(), "step {step}");
            }
            world.restore("new", None).await.unwrap();
            assert_eq!(contents(&new), all, "step {step}");
            assert_eq!(std::fs::read(new.join("routes.toml")).unwrap(), b"# routes\n");
            assert!(!new.join("restoring").exists());
            step += 1;
        }
        assert!(step > 5, "{step} steps");
    }
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

#[tokio::test]
async fn damage_that_was_backed_up_is_told_and_all_else_is_there() {
    use std::os::unix::fs::FileExt as _;
    let mut world = World::new();
    world.grow(150);
    world.close();
    for slot in std::fs::read_dir(world.folder().file("journal")).unwrap() {
        let slot = slot.unwrap().path();
        if slot.extension().is_none() {
            let file = std::fs::File::options().write(true).open(slot).unwrap();
            file.write_all_at(&[9; 64], 300_000).unwrap();
        }
    }
    world.make().await;
    let report = world.restore("new", None).await.unwrap();
    assert!(!report.clean);
    let there = OfflineLog::open(&world.path()).unwrap();
    let new = OfflineLog::open(&world.parent.path().join("new")).unwrap();
    let ends = |log: &OfflineLog| {
        let raw = log.topic("raw").unwrap();
        raw.partitions().map(|id| log.extent(id).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ends(&new), ends(&there));
}
