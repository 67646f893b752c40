//! What is broken on purpose is noticed: what a log shows is changed before the model looks at it,
//! the model is told what did not happen, or the disk forgets behind everyone's back.

use std::any::Any;

use tracklog_engine::WhenFull;
use tracklog_log::Limits;

use super::*;
use crate::contents::Found;

/// A machine on which nothing has gone wrong, with `main` of two partitions and `keys`.
fn sound() -> Program {
    sound_by(Plan::fixed())
}

fn sound_by(plan: Plan) -> Program {
    let mut program = Program::new(1, Chance::new(1), plan, false);
    program.begin();
    program
}

fn main_partition(program: &Program, nth: u32) -> PartitionId {
    let mut topics = program.model.topics();
    topics.find(|topic| topic.name() == "main").expect("it is made").partition(nth)
}

/// Sends one append with a record for each of these partitions of `main`.
fn send(program: &mut Program, partitions: &[u32]) -> usize {
    let mut make = |nth: &u32| {
        let partition = main_partition(program, *nth);
        (program.model.make(partition, &[20]), false)
    };
    let contents: Vec<(Part, bool)> = partitions.iter().map(&mut make).collect();
    program.send(&contents, None)
}

/// An append that is durable, and whose client is gone before it was told.
fn send_unheard(program: &mut Program, partitions: &[u32]) {
    send(program, partitions);
    program.step(Step::Journal);
    program.disk.run_until_idle();
    program.step(Step::Journal);
    program.tasks.clear();
}

/// What the log shows once it was opened again.
fn opened(program: &mut Program) -> (Vec<Topic>, Contents) {
    program.crash(Crash::Kill);
    program.node = Some(program.try_open().expect("it opens"));
    let log = program.log();
    (log.topics().to_vec(), read_all(&*log))
}

/// Holds it against the model, as it was found but for a change.
fn open_with(program: &mut Program, change: impl FnOnce(&Program, &mut Vec<Topic>, &mut Contents)) {
    let (mut topics, mut contents) = opened(program);
    change(program, &mut topics, &mut contents);
    let loss = program.loss;
    program.model.opened(&topics, &contents, loss, false);
}

/// Takes the last record of a partition away, and its place.
fn pop(share: &mut Share) {
    share.records.pop_last().expect("there is one");
    share.extent.end = Offset(share.extent.end.0 - 1);
}

/// What is said of what `then` does.
fn violation(mut program: Program, then: impl FnOnce(&mut Program)) -> String {
    let ended = catch_unwind(AssertUnwindSafe(|| then(&mut program)));
    std::mem::forget(program);
    said(ended.expect_err("nobody noticed").as_ref())
}

fn said(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|said| (*said).to_owned());
    panic.downcast_ref::<String>().cloned().or(literal).expect("a panic says something")
}

#[track_caller]
fn assert_noticed(program: Program, what: &str, then: impl FnOnce(&mut Program)) {
    let said = violation(program, then);
    assert!(said.contains(what), "{what:?} is not in {said:?}");
}

#[test]
fn what_is_as_it_was_passes() {
    let mut program = sound();
    send(&mut program, &[0, 1]);
    program.settle();
    send_unheard(&mut program, &[1, 0]);
    open_with(&mut program, |_, _, _| {});
}

#[test]
fn an_ack_that_did_not_happen_is_noticed() {
    let mut program = sound();
    let append = send(&mut program, &[0]);
    let end = program.log().extent(main_partition(&program, 0)).expect("it is there").end;
    program.model.acked(append, &[end]);
    assert_noticed(program, "is gone", |program| open_with(program, |_, _, _| {}));
}

#[test]
fn an_acked_record_that_is_not_read_is_noticed() {
    let mut program = sound();
    send(&mut program, &[0, 1]);
    program.settle();
    assert_noticed(program, "has holes", |program| {
        open_with(program, |program, _, contents| {
            let share = contents.get_mut(&main_partition(program, 0)).expect("it is there");
            share.records.pop_first();
        });
    });
}

#[test]
fn an_end_that_goes_back_is_noticed() {
    let mut program = sound();
    send(&mut program, &[0]);
    program.settle();
    let partition = main_partition(&program, 0);
    let extent = program.log().extent(partition).expect("it is there");
    program.model.extent(partition, extent);
    assert_noticed(program, "went back", |program| {
        open_with(program, |program, _, contents| {
            pop(contents.get_mut(&main_partition(program, 0)).expect("it is there"));
        });
    });
}

#[test]
fn a_disk_that_goes_back_to_an_older_state_is_noticed() {
    let mut program = sound();
    let before = program.disk.snapshot();
    send(&mut program, &[0]);
    program.settle();
    assert_noticed(program, "is gone", |program| {
        program.crash(Crash::Power);
        program.disk.restore(&before);
        program.open();
    });
}

#[test]
fn a_commit_of_which_one_partition_is_missing_is_noticed() {
    let mut program = sound();
    send_unheard(&mut program, &[0, 1]);
    assert_noticed(program, "is there in parts", |program| {
        open_with(program, |program, _, contents| {
            pop(contents.get_mut(&main_partition(program, 1)).expect("it is there"));
        });
    });
}

#[test]
fn an_append_that_is_missing_before_one_that_is_there_is_noticed() {
    let mut program = sound();
    send_unheard(&mut program, &[1]);
    send_unheard(&mut program, &[0]);
    assert_noticed(program, "is not", |program| {
        open_with(program, |program, _, contents| {
            pop(contents.get_mut(&main_partition(program, 1)).expect("it is there"));
        });
    });
}

#[test]
fn what_was_cut_once_and_comes_back_is_noticed() {
    let mut program = sound();
    send_unheard(&mut program, &[1]);
    assert_noticed(program, "was cut or refused", |program| {
        open_with(program, |program, _, contents| {
            pop(contents.get_mut(&main_partition(program, 1)).expect("it is there"));
        });
        open_with(program, |_, _, _| {});
    });
}

#[test]
fn an_offset_that_is_given_twice_is_noticed() {
    let mut program = sound();
    send(&mut program, &[0]);
    program.settle();
    let end = program.log().extent(main_partition(&program, 0)).expect("it is there").end;
    let append = send(&mut program, &[0]);
    assert_noticed(program, "was given twice", |program| {
        program.model.acked(append, &[Offset(end.0 - 1)]);
    });
}

#[test]
fn bytes_of_a_record_that_changed_are_noticed() {
    let mut program = sound();
    send(&mut program, &[0]);
    program.settle();
    assert_noticed(program, "is whole", |program| {
        open_with(program, |program, _, contents| {
            let share = contents.get_mut(&main_partition(program, 0)).expect("it is there");
            share.records.values_mut().for_each(|found| found.length += 1);
        });
    });
    let mut bytes = crate::model::payload(7, 20);
    bytes[12] ^= 1;
    let wrong = catch_unwind(|| check_bytes(&bytes)).expect_err("nobody noticed");
    assert!(said(wrong.as_ref()).contains("has other bytes"));
}

#[test]
fn a_trim_that_is_forgotten_is_noticed() {
    let mut program = sound();
    send(&mut program, &[0]);
    program.settle();
    let partition = main_partition(&program, 0);
    program.model.trim(partition, Offset(1));
    program.model.trimmed(partition, Offset(1));
    assert_noticed(program, "was trimmed to", |program| open_with(program, |_, _, _| {}));
}

#[test]
fn a_topic_that_is_gone_or_comes_back_is_noticed() {
    assert_noticed(sound(), "is gone", |program| {
        open_with(program, |_, topics, _| topics.retain(|topic| topic.name() != "main"));
    });
    let mut program = sound();
    let keys = program.keys().expect("it is made").topic;
    program.model.delete(keys);
    program.model.deleted(keys);
    assert_noticed(program, "came back", |program| open_with(program, |_, _, _| {}));
}

#[test]
fn a_key_that_shows_an_older_value_is_noticed() {
    let mut program = sound();
    for _ in 0..4 * KEYS {
        program.write_key();
        program.settle();
    }
    assert_noticed(program, "key [", |program| {
        open_with(program, |program, _, contents| {
            let share = contents.get_mut(&program.keys().expect("it is made")).expect("there");
            let last = share.records.last_entry().expect("there is one").remove();
            let key = last.key.expect("it is one of a key");
            // Another record takes its place, so that only what it says is wrong.
            let (at, _) = share.records.pop_first().expect("there are more");
            let (key, number) = (Some([key, b"other".to_vec()].concat()), None);
            let other = |at| (at, Found { key: key.clone(), number, length: 0, ..last });
            share.records.extend([other(at), other(Offset(share.extent.end.0 - 1))]);
        });
    });
}

#[test]
fn a_record_that_was_lost_without_a_word_is_noticed_whatever_was_damaged() {
    for loss in [Loss::OneCommit, Loss::Told] {
        let mut program = sound();
        send(&mut program, &[0]);
        program.settle();
        send(&mut program, &[1]);
        program.settle();
        program.loss = loss;
        assert_noticed(program, "is lost in silence", |program| {
            open_with(program, |program, _, contents| {
                let share = contents.get_mut(&main_partition(program, 0)).expect("it is there");
                share.records.pop_last();
            });
        });
    }
}

#[test]
fn more_than_one_commit_that_a_page_took_is_noticed() {
    // Where nothing is given up, nothing may have been out of reach.
    let mut plan = Plan::fixed();
    plan.options.when_full = WhenFull::Refuse;
    plan.limits = Limits::default();
    let mut program = sound_by(plan);
    for _ in 0..2 {
        send(&mut program, &[0]);
        program.settle();
        program.disk.advance(Duration::from_millis(5));
    }
    let contents = read_all(&*program.log());
    contents.keys().for_each(|partition| program.look(*partition, &contents));
    program.loss = Loss::OneCommit;
    assert_noticed(program, "one page took", |program| {
        open_with(program, |program, _, contents| {
            let share = contents.get_mut(&main_partition(program, 0)).expect("it is there");
            share.records.clear();
            share.damage.push(share.extent.start..share.extent.end);
        });
    });
}

#[test]
fn changes_that_damage_may_undo_are_told() {
    let undone = |told| {
        let mut program = sound();
        send(&mut program, &[0]);
        program.settle();
        let partition = main_partition(&program, 0);
        program.model.trim(partition, Offset(1));
        program.model.trimmed(partition, Offset(1));
        let (mut topics, mut contents) = opened(&mut program);
        topics.retain(|topic| topic.name() != "keys");
        contents.retain(|partition, _| topics.iter().any(|topic| topic.id == partition.topic));
        catch_unwind(AssertUnwindSafe(|| {
            program.model.opened(&topics, &contents, Loss::OneCommit, told);
        }))
    };
    undone(true).expect("it was told");
    undone(false).expect_err("nobody noticed");
}

#[test]
fn someone_who_waits_for_ever_is_noticed() {
    let mut program = sound();
    let never = Box::pin(std::future::pending());
    program.tasks.push(Task::new(Waits::Made, never));
    assert_noticed(program, "waits for ever", Program::settle);
}

#[test]
fn an_erased_record_that_is_found_again_is_noticed() {
    let mut program = sound();
    send(&mut program, &[0]);
    program.settle();
    let partition = main_partition(&program, 0);
    program.model.erased(&[Erase::one(partition, Offset(0))]);
    assert_noticed(program, "was erased", |program| open_with(program, |_, _, _| {}));
}
