//! The cold end of the log: packs, which take the place of full segments.
//!
//! Where to look: `pack` is the file's format, `compressing` what becomes of a frame, `frames` reads
//! and keeps what is decoded, `settler` makes packs of segments and of packs, `merging` says of
//! which, `expiry` what is kept no longer, `erasure` what is to be erased, `thinning` which records
//! stay, `pace` how fast. `ids` finds events by message id, and `filters` says where that need not be
//! tried. `witness` is what a pack tells an opening without a checkpoint, `sources` where that comes
//! from, `adoption` which packs serve that no checkpoint names.

pub(crate) mod adoption;
mod compressing;
pub(crate) mod erasure;
mod expiry;
pub(crate) mod filters;
pub(crate) mod frames;
pub(crate) mod ids;
mod merging;
mod pace;
pub(crate) mod pack;
pub(crate) mod settler;
mod sources;
mod thinning;
pub(crate) mod witness;
