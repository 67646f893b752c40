//! The engine is a `Log`: the suite of the seam, on every backend.

use std::sync::Arc;

use tempfile::TempDir;
use tracklog_engine::disk::simulated::SimDisk;
use tracklog_engine::{BackendChoice, Engine, Options};
use tracklog_log::Log;
use tracklog_log::conformance::{Harness, deduplicated, run_all};

fn options(backend: BackendChoice) -> Options {
    let dedupe = deduplicated();
    Options { slot_bytes: Some(32 << 20), backend, dedupe, ..Options::default() }
}

/// A log in a folder of its own.
struct InFolder {
    engine: Option<Arc<Engine>>,
    backend: BackendChoice,
    /// Dropped last: a log that still prepares a slot would leave it behind.
    folder: TempDir,
}

impl InFolder {
    fn make(backend: BackendChoice) -> Box<dyn Harness> {
        let folder = tempfile::tempdir().expect("there is room for a folder");
        let mut log = Self { engine: None, backend, folder };
        log.open();
        Box::new(log)
    }

    fn open(&mut self) {
        let engine = Engine::open(self.folder.path(), &options(self.backend));
        self.engine = Some(Arc::new(engine.expect("it opens")));
    }
}

impl Harness for InFolder {
    fn log(&self) -> Arc<dyn Log> {
        Arc::clone(self.engine.as_ref().expect("it is open")) as Arc<dyn Log>
    }

    fn reopen(&mut self) {
        drop(self.engine.take());
        self.open();
    }
}

/// A log on a simulated disk.
struct Simulated {
    disk: SimDisk,
    engine: Option<Arc<Engine>>,
}

impl Simulated {
    fn make() -> Box<dyn Harness> {
        let disk = SimDisk::new(1);
        disk.set_auto(true);
        let mut log = Self { disk, engine: None };
        log.open();
        Box::new(log)
    }

    fn open(&mut self) {
        let disk = Arc::new(self.disk.clone());
        let engine = Engine::open_on(disk, &options(BackendChoice::Auto)).expect("it opens");
        self.engine = Some(Arc::new(engine));
    }
}

impl Harness for Simulated {
    fn log(&self) -> Arc<dyn Log> {
        Arc::clone(self.engine.as_ref().expect("it is open")) as Arc<dyn Log>
    }

    fn reopen(&mut self) {
        drop(self.engine.take());
        self.disk = self.disk.reboot();
        self.open();
    }
}

#[test]
fn the_engine_conforms_on_the_simulated_disk() {
    run_all(&mut Simulated::make);
}

#[test]
fn the_engine_conforms_on_threads() {
    run_all(&mut || InFolder::make(BackendChoice::Blocking));
}

#[test]
fn the_engine_conforms_on_io_uring() {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    if let Err(error) = Engine::open(folder.path(), &options(BackendChoice::Uring)) {
        println!("skipped: {error}");
        return;
    }
    run_all(&mut || InFolder::make(BackendChoice::Uring));
}
