//! The driver, with a journal that says what it is told to say.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::disk::{Share, give_way};
use crate::journal::appender::Next;
use crate::journal::driver::{Driver, Machine};
use crate::journal::intake::{Input, Intake};

/// Says one thing after the other.
struct Scripted {
    intake: Arc<Intake>,
    says: std::vec::IntoIter<Next>,
    steps: Arc<AtomicUsize>,
}

impl Machine for Scripted {
    fn step(&mut self) -> Next {
        self.intake.take_inputs(&mut Vec::new());
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.says.next().expect("it is driven no further")
    }
}

fn driven(says: Vec<Next>) -> (Arc<Driver>, Arc<AtomicUsize>) {
    let (driver, steps) = (Driver::new(Arc::default()), Arc::default());
    let intake = Arc::clone(&driver.intake);
    let machine = Scripted { intake, says: says.into_iter(), steps: Arc::clone(&steps) };
    driver.start(Box::new(machine));
    (driver, steps)
}

fn something() -> Input {
    Input::NoRoom("for a test".into())
}

const IDLE: Next = Next::Wait { wake_at_bytes: 0, timeout: None };

const fn due_in(timeout: Duration) -> Next {
    Next::Wait { wake_at_bytes: 0, timeout: Some(timeout) }
}

#[test]
fn callers_that_never_come_again_are_not_waited_for_long() {
    let (driver, steps) = driven(vec![IDLE, Next::Linger { appends: 2 }, IDLE]);
    driver.push(something());
    assert_eq!(steps.load(Ordering::Relaxed), 3, "it goes on after a moment");
    assert!(driver.intake.attend(), "nobody attends any more");
}

#[test]
fn a_thread_of_the_background_leaves_the_journal_to_the_watcher() {
    let (driver, steps) = driven(vec![IDLE, Next::Stopped]);
    let settler = thread::spawn({
        let driver = Arc::clone(&driver);
        move || {
            give_way(Share::Equal);
            driver.push(something());
        }
    });
    settler.join().unwrap();
    assert_eq!(steps.load(Ordering::Relaxed), 1, "it drove nothing itself");
    driver.watch();
    assert_eq!(steps.load(Ordering::Relaxed), 2);
}

#[test]
fn the_watcher_drives_a_journal_whose_time_has_come() {
    let soon = due_in(Duration::from_millis(1));
    let (driver, steps) = driven(vec![soon, soon, Next::Stopped]);
    driver.watch();
    assert_eq!(steps.load(Ordering::Relaxed), 3);
}

#[test]
fn the_watcher_is_called_when_the_time_is_nearer_than_it_thought() {
    let (far, near) = (due_in(Duration::from_secs(3_600)), due_in(Duration::from_millis(1)));
    let (driver, steps) = driven(vec![far, near, Next::Stopped]);
    let watcher = thread::spawn({
        let driver = Arc::clone(&driver);
        move || driver.watch()
    });
    driver.push(something());
    watcher.join().expect("it ends with the journal");
    assert_eq!(steps.load(Ordering::Relaxed), 3);
}
