//! Telemetry as a process sees it. It is set up once a process, so each scenario runs in a child: this binary again.

mod child;
mod receiver;
mod reference;
mod telemetry;
