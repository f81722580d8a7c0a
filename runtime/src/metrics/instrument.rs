//! The instruments. Constant until first used; then bound, once, to the process's meter.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use opentelemetry::{KeyValue, global, metrics};

use super::{Definition, Kind, enabled};

/// The scope every metric of ours is under.
pub(super) const SCOPE: &str = "muster";

/// Pairs names and values. A label without a value is left out: that is how "no error" is said.
fn attributes<const N: usize>(names: &[&'static str], values: [&str; N]) -> Vec<KeyValue> {
    names
        .iter()
        .zip(values)
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| KeyValue::new(*name, value.to_owned()))
        .collect()
}

macro_rules! definition {
    ($kind:expr, $name:ident, $unit:ident, $labels:ident, $buckets:expr, $help:ident) => {
        Definition { name: $name, unit: $unit, kind: $kind, labels: $labels, buckets: $buckets, help: $help }
            .checked()
    };
}

macro_rules! counting {
    ($(#[$doc:meta])* $type:ident, $number:ty, $builder:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $type<const N: usize> {
            definition: Definition,
            bound: OnceLock<metrics::Counter<$number>>,
        }

        impl<const N: usize> $type<N> {
            /// See [`Definition`].
            #[must_use]
            pub const fn new(
                name: &'static str,
                unit: &'static str,
                labels: &'static [&'static str; N],
                help: &'static str,
            ) -> Self {
                Self { definition: definition!(Kind::Counter, name, unit, labels, &[], help), bound: OnceLock::new() }
            }

            /// What it is.
            #[must_use]
            pub const fn definition(&self) -> Definition {
                self.definition
            }

            /// Adds; labels in the order of the definition, an empty one is left out.
            pub fn add(&self, value: $number, labels: [&str; N]) {
                if !enabled() {
                    return;
                }
                self.bound
                    .get_or_init(|| {
                        global::meter(SCOPE)
                            .$builder(self.definition.name)
                            .with_unit(self.definition.unit)
                            .with_description(self.definition.help)
                            .build()
                    })
                    .add(value, &attributes(self.definition.labels, labels));
            }
        }
    };
}

counting!(
    /// Counts things, whole.
    Counter,
    u64,
    u64_counter
);
counting!(
    /// Adds up what comes in fractions: money, seconds. Negative values are dropped by the exporter.
    Amount,
    f64,
    f64_counter
);

/// How values are distributed.
#[derive(Debug)]
pub struct Histogram<const N: usize> {
    definition: Definition,
    bound: OnceLock<metrics::Histogram<f64>>,
}

impl<const N: usize> Histogram<N> {
    /// See [`Definition`].
    #[must_use]
    pub const fn new(
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str; N],
        buckets: &'static [f64],
        help: &'static str,
    ) -> Self {
        assert!(!buckets.is_empty(), "a histogram has buckets");
        Self {
            definition: definition!(Kind::Histogram, name, unit, labels, buckets, help),
            bound: OnceLock::new(),
        }
    }

    /// What it is.
    #[must_use]
    pub const fn definition(&self) -> Definition {
        self.definition
    }

    /// Records a value; labels in the order of the definition, an empty one is left out.
    pub fn record(&self, value: f64, labels: [&str; N]) {
        if !enabled() {
            return;
        }
        self.bound
            .get_or_init(|| {
                global::meter(SCOPE)
                    .f64_histogram(self.definition.name)
                    .with_unit(self.definition.unit)
                    .with_description(self.definition.help)
                    .with_boundaries(self.definition.buckets.to_vec())
                    .build()
            })
            .record(value, &attributes(self.definition.labels, labels));
    }

    /// Records how long something took.
    pub fn took(&self, time: std::time::Duration, labels: [&str; N]) {
        self.record(time.as_secs_f64(), labels);
    }
}

/// One value of a [`Level`], with its labels in the order of the definition.
pub type Sample<const N: usize> = ([String; N], i64);

/// The last whole picture of a level; read by the exporter, for which it is never locked longer than a copy takes.
type Picture = Arc<Mutex<Vec<(Vec<KeyValue>, i64)>>>;

/// How many there are. Told as a whole picture: labels that a picture does not name are no longer shown.
#[derive(Debug)]
pub struct Level<const N: usize> {
    definition: Definition,
    bound: OnceLock<Picture>,
}

impl<const N: usize> Level<N> {
    /// See [`Definition`].
    #[must_use]
    pub const fn new(
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str; N],
        help: &'static str,
    ) -> Self {
        Self { definition: definition!(Kind::Level, name, unit, labels, &[], help), bound: OnceLock::new() }
    }

    /// What it is.
    #[must_use]
    pub const fn definition(&self) -> Definition {
        self.definition
    }

    /// Replaces what there is. Samples with the same labels add up.
    pub fn set(&self, samples: impl IntoIterator<Item = Sample<N>>) {
        if !enabled() {
            return;
        }
        let mut picture: Vec<(Vec<KeyValue>, i64)> = Vec::new();
        for (labels, value) in samples {
            let labels = attributes(self.definition.labels, labels.each_ref().map(String::as_str));
            match picture.iter_mut().find(|(known, _)| *known == labels) {
                Some((_, sum)) => *sum = sum.saturating_add(value),
                None => picture.push((labels, value)),
            }
        }
        let bound = self.bound.get_or_init(|| {
            let shared = Picture::default();
            let read = Arc::clone(&shared);
            // The meter keeps the callback; the handle itself carries nothing.
            let _ = global::meter(SCOPE)
                .i64_observable_up_down_counter(self.definition.name)
                .with_unit(self.definition.unit)
                .with_description(self.definition.help)
                .with_callback(move |observer| {
                    for (labels, value) in read.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                        observer.observe(*value, labels);
                    }
                })
                .build();
            shared
        });
        *bound.lock().unwrap_or_else(PoisonError::into_inner) = picture;
    }
}

/// What is now. A series stays at its last value, so every label value that was once set is set again at each turn.
#[derive(Debug)]
pub struct Gauge<const N: usize> {
    definition: Definition,
    bound: OnceLock<metrics::Gauge<f64>>,
}

impl<const N: usize> Gauge<N> {
    /// See [`Definition`].
    #[must_use]
    pub const fn new(
        name: &'static str,
        unit: &'static str,
        labels: &'static [&'static str; N],
        help: &'static str,
    ) -> Self {
        Self { definition: definition!(Kind::Gauge, name, unit, labels, &[], help), bound: OnceLock::new() }
    }

    /// What it is.
    #[must_use]
    pub const fn definition(&self) -> Definition {
        self.definition
    }

    /// Sets it; labels in the order of the definition, an empty one is left out.
    pub fn set(&self, value: f64, labels: [&str; N]) {
        if !enabled() {
            return;
        }
        self.bound
            .get_or_init(|| {
                global::meter(SCOPE)
                    .f64_gauge(self.definition.name)
                    .with_unit(self.definition.unit)
                    .with_description(self.definition.help)
                    .build()
            })
            .record(value, &attributes(self.definition.labels, labels));
    }
}
