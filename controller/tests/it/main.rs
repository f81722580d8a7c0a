//! A real controller, driven over gRPC, with a scripted worker in the test.

mod bad_input;
mod farm;
mod fleet;
mod life;
mod output;
mod restart;
mod stored;
mod worker;
