//! What a session is. Pure: no clock, no I/O.
//!
//! [`phase`] holds the only rules by which a session moves, [`record`] what is kept of it, [`stored`] the
//! mapping to the store's keys, [`input`] what may be said to it, [`view`] what callers see. Called by the
//! engine alone.

pub mod input;
pub mod phase;
pub mod record;
pub mod stored;
pub mod view;

pub use phase::Phase;
pub use record::Session;
