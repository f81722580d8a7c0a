//! Between a session and the keys it is stored under (`store::keys`).
//!
//! What to write is the difference between the session as it is stored and as it shall be: nobody has to
//! remember what they touched.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use muster_proto::{ids::SessionId, v1::Input};
use prost::Message;

use super::record::{Fixed, Request, Session, State};
use crate::store::{
    Entry, Txn,
    keys::{self, Part},
    value::{self, Damaged, Kind},
};

/// A stored record that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the stored record {key} cannot be read: {source}")]
pub struct LoadError {
    /// Where it is.
    pub(crate) key: String,
    /// What is wrong with it.
    pub(crate) source: Damaged,
}

/// Adds to `txn` what makes the store hold `new` instead of `old`.
pub fn write(txn: &mut Txn, old: Option<&Session>, new: &Session) {
    let id = new.id;
    if old.is_none() {
        txn.put(keys::session(id, &Part::Fixed), sealed(Kind::Fixed, &*new.fixed));
    }
    if old.is_none_or(|old| old.state != new.state) {
        txn.put(keys::session(id, &Part::State), sealed(Kind::State, &new.state));
    }
    if old.map_or("", |old| &old.result) != &*new.result {
        txn.put(keys::session(id, &Part::Result), value::seal(Kind::Result, new.result.as_bytes()));
    }
    let known = |seq: &u64| old.is_some_and(|old| old.inputs.contains_key(seq));
    // Input 1 is in the spec.
    for (seq, input) in new.inputs.iter().filter(|(seq, _)| **seq != 1 && !known(seq)) {
        txn.put(keys::session(id, &Part::Input(*seq)), sealed(Kind::Input, &**input));
    }
    let gone = old.iter().flat_map(|old| old.inputs.keys());
    for seq in gone.filter(|seq| **seq != 1 && !new.inputs.contains_key(seq)) {
        txn.delete(keys::session(id, &Part::Input(*seq)));
    }
    if old.is_some_and(|old| Arc::ptr_eq(&old.requests, &new.requests)) {
        return;
    }
    let used = |request: &String| old.is_some_and(|old| old.requests.contains_key(request));
    for (request, record) in new.requests.iter().filter(|(request, _)| !used(request)) {
        txn.put(keys::session(id, &Part::Request(request.clone())), sealed(Kind::Request, record));
    }
}

/// Adds to `txn` what makes the store forget `session`.
pub fn erase(txn: &mut Txn, session: &Session) {
    let inputs = session.inputs.keys().filter(|seq| **seq != 1).map(|seq| Part::Input(*seq));
    let requests = session.requests.keys().map(|request| Part::Request(request.clone()));
    for part in [Part::Fixed, Part::State, Part::Result].into_iter().chain(inputs).chain(requests) {
        txn.delete(keys::session(session.id, &part));
    }
}

/// Makes sessions of everything stored under `session/`.
///
/// # Errors
/// The first record that cannot be read: a controller that forgot half a session would run it twice.
pub fn load(entries: Vec<(String, Entry)>) -> Result<Vec<Session>, LoadError> {
    let mut parts: BTreeMap<SessionId, Parts> = BTreeMap::new();
    for (key, entry) in entries {
        match keys::parse_session(&key) {
            Some((id, part)) => {
                let failed = |source| LoadError { key: key.clone(), source };
                parts.entry(id).or_default().add(part, &entry.value).map_err(failed)?;
            }
            None => tracing::warn!(key, "a record of a newer muster is left alone"),
        }
    }
    parts.into_iter().map(|(id, parts)| parts.join(id)).collect()
}

#[derive(Default)]
struct Parts {
    fixed: Option<Fixed>,
    state: Option<State>,
    inputs: BTreeMap<u64, Arc<Input>>,
    requests: BTreeMap<String, Request>,
    result: String,
}

impl Parts {
    fn add(&mut self, part: Part, framed: &Bytes) -> Result<(), Damaged> {
        match part {
            Part::Fixed => self.fixed = Some(opened(Kind::Fixed, framed)?),
            Part::State => self.state = Some(opened(Kind::State, framed)?),
            Part::Input(seq) => {
                self.inputs.insert(seq, Arc::new(opened(Kind::Input, framed)?));
            }
            Part::Request(request) => {
                self.requests.insert(request, opened(Kind::Request, framed)?);
            }
            Part::Result => {
                let text = value::open(Kind::Result, framed)?;
                self.result = String::from_utf8(text.to_vec()).map_err(|_| Damaged::Message)?;
            }
        }
        Ok(())
    }

    fn join(self, id: SessionId) -> Result<Session, LoadError> {
        let incomplete = |part| LoadError { key: keys::session(id, &part), source: Damaged::Message };
        let fixed = self.fixed.filter(|fixed| fixed.spec.is_some()).ok_or_else(|| incomplete(Part::Fixed))?;
        let state = self.state.filter(State::phase_is_known).ok_or_else(|| incomplete(Part::State))?;
        let mut session = Session::new(id, fixed, 0);
        session.inputs.extend(self.inputs);
        if !state.prompt_pending {
            session.inputs.remove(&1);
        }
        session.state = state;
        session.requests = Arc::new(self.requests);
        session.result = self.result.into();
        Ok(session)
    }
}

/// A message in its frame.
pub fn sealed(kind: Kind, message: &impl Message) -> Bytes {
    value::seal(kind, &message.encode_to_vec())
}

/// A message out of its frame.
///
/// # Errors
/// See [`Damaged`].
pub fn opened<M: Message + Default>(kind: Kind, framed: &[u8]) -> Result<M, Damaged> {
    M::decode(value::open(kind, framed)?).map_err(|_| Damaged::Message)
}

#[cfg(test)]
mod tests {
    use muster_proto::v1::{SessionSpec, input};

    use super::*;
    use crate::session::phase::Event;

    fn stored(txn: &Txn, into: &mut BTreeMap<String, Entry>) {
        for (key, value) in &txn.puts {
            into.insert(key.clone(), Entry { value: value.clone(), revision: 1 });
        }
        for key in &txn.deletes {
            into.remove(key);
        }
    }

    #[test]
    fn a_session_loads_as_it_was_written_after_every_change() {
        let spec = SessionSpec { prompt: "do it".into(), ..SessionSpec::default() };
        let fixed = Fixed { handle: "h".into(), spec: Some(spec), ..Fixed::default() };
        let mut session = Session::new(SessionId::generate(), fixed, 3);
        let mut store = BTreeMap::new();
        let mut old = None;
        let at = muster_proto::time::now();
        for step in 0..5 {
            match step {
                1 => session.place(&"w".parse().expect("a name"), at).expect("it is queued"),
                2 => drop(session.add_input(input::Body::Message("more".into()))),
                3 => {
                    session.drop_input(1);
                    session.happens(Event::Stop, at).expect("legal");
                    Arc::make_mut(&mut session.requests).insert("r/1".into(), Request::default());
                }
                4 => {
                    session.drop_input(2);
                    session.result = "done".into();
                }
                _ => {}
            }
            let mut txn = Txn::new();
            write(&mut txn, old.as_ref(), &session);
            stored(&txn, &mut store);
            let loaded = load(store.clone().into_iter().collect()).expect("readable").remove(0);
            assert_eq!(loaded.state, session.state, "step {step}");
            assert_eq!(loaded.inputs, session.inputs, "step {step}");
            assert_eq!((&loaded.requests, &loaded.result), (&session.requests, &session.result));
            assert_eq!(loaded.fixed, session.fixed);
            old = Some(session.clone());
        }
        let mut txn = Txn::new();
        write(&mut txn, old.as_ref(), &session);
        assert!(txn.is_empty(), "nothing changed, nothing is written");
        erase(&mut txn, &session);
        stored(&txn, &mut store);
        assert!(store.is_empty(), "nothing of it stays: {store:?}");
    }

    #[test]
    fn half_a_session_is_refused() {
        let id = SessionId::generate();
        let key = keys::session(id, &Part::Fixed);
        let entry = Entry { value: Bytes::from_static(b"garbage"), revision: 1 };
        let error = load(vec![(key.clone(), entry)]).expect_err("refused").to_string();
        assert!(error.contains(&key), "{error}");
    }
}
