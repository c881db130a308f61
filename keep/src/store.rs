//! The descriptors that are held for the agent.

use std::fs::File;
use std::os::fd::OwnedFd;

use holder::{Inherited, memory};

/// Named descriptors, in the order in which they came.
#[derive(Debug)]
pub(super) struct Store(Vec<(String, OwnedFd)>);

impl Store {
    /// What this process was started with: a unit of systemd may have a socket and a keeper.
    pub(super) fn new(inherited: Inherited) -> Self {
        let (listeners, memories) = inherited.into_parts();
        let listeners = listeners.into_iter().map(|(name, listener)| (name, OwnedFd::from(listener)));
        let memories = memories.into_iter().map(|(name, file)| (name, OwnedFd::from(file)));
        Self(listeners.chain(memories).collect())
    }

    pub(super) fn held(&self) -> impl Iterator<Item = (&str, &OwnedFd)> {
        self.0.iter().map(|(name, descriptor)| (&**name, descriptor))
    }

    /// Keeps descriptors. What is more than [`LIMIT`] is closed.
    pub(super) fn keep(&mut self, name: &str, descriptors: Vec<OwnedFd>) {
        // A colon separates names when they are passed on.
        let name = name.replace(|c: char| c == ':' || c.is_control(), "_");
        let room = LIMIT.saturating_sub(self.0.len());
        self.0.extend(descriptors.into_iter().take(room).map(|descriptor| (name.clone(), descriptor)));
    }

    /// Closes the descriptors of this name.
    pub(super) fn remove(&mut self, name: &str) {
        self.0.retain(|(held, _)| held != name);
    }

    /// Closes all, and erases the memory among it: nobody comes who could read it.
    pub(super) fn erase(&mut self) {
        for (_, descriptor) in self.0.drain(..) {
            let file = File::from(descriptor);
            if memory::number(&file) > 0 {
                memory::erase(&file);
            }
        }
    }
}

/// The most descriptors: an agent has two sockets, one for its successor, and two memories while one replaces the other.
const LIMIT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn memory() -> OwnedFd {
        memory::write(b"key", 1).unwrap().into()
    }

    #[test]
    fn names_are_kept_and_removed() {
        let mut store = Store::new(Inherited::default());
        store.keep("a", vec![memory()]);
        store.keep("b:c\n", vec![memory(), memory()]);
        let names = |store: &Store| store.held().map(|(name, _)| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(names(&store), ["a", "b_c_", "b_c_"]);
        store.remove("b_c_");
        assert_eq!(names(&store), ["a"]);
        for _ in 0..2 * LIMIT {
            store.keep("more", vec![memory()]);
        }
        assert_eq!(names(&store).len(), LIMIT);
    }

    #[test]
    fn an_erased_store_leaves_nothing_in_memory() {
        let mut store = Store::new(Inherited::default());
        let kept = File::from(memory());
        store.keep("memory", vec![kept.try_clone().unwrap().into()]);
        store.keep("socket", vec![std::os::unix::net::UnixDatagram::unbound().unwrap().into()]);
        store.erase();
        assert_eq!(kept.metadata().unwrap().len(), 0);
        assert_eq!(store.held().count(), 0);
    }
}
