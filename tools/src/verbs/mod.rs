//! The verbs of the command line, one file each.

pub(crate) mod archive;
pub(crate) mod backfill;
pub(crate) mod backup;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod demo;
pub(crate) mod destination;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod enrich;
pub(crate) mod export;
pub(crate) mod find;
pub(crate) mod group;
pub(crate) mod inspect;
pub(crate) mod rejected;
pub(crate) mod replay;
pub(crate) mod reprocess;
pub(crate) mod restore;
pub(crate) mod route;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod tail;
pub(crate) mod topic;
pub(crate) mod torture;
pub(crate) mod verify;
pub(crate) mod watch;
