//! The static and the dynamic table, which fields refer to by index (RFC 7541 §2.3).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::HpackError;

/// Both tables as one address space (§2.3.3): the static one, then the peer's entries, newest first.
pub(super) struct Table {
    entries: VecDeque<Entry>,
    /// The size of all entries, as §4.1 counts it.
    size: usize,
    capacity: usize,
}

impl Table {
    pub(super) const fn new(capacity: usize) -> Self {
        Self { entries: VecDeque::new(), size: 0, capacity }
    }

    /// The name and value at `index` (§2.3.3).
    pub(super) fn field(&self, index: usize) -> Result<(&[u8], &[u8]), HpackError> {
        let index = index.checked_sub(1).ok_or(HpackError::IndexZero)?;
        if let Some((name, value)) = STATIC.get(index) {
            return Ok((name, value));
        }
        let entry = self.entries.get(index - STATIC.len()).ok_or(HpackError::IndexBeyondTables)?;
        Ok((entry.name.bytes(), &entry.value))
    }

    /// An entry for [`Self::insert`]. Its name is shared with the entry at `index`, or copied from `name` if `index`
    /// is 0. `None` when the field would not fit even into an empty table.
    pub(super) fn entry(&self, index: usize, name: &[u8], value: &[u8]) -> Option<Entry> {
        let fits = name.len() + value.len() + OVERHEAD <= self.capacity;
        fits.then(|| {
            let name = self.name_at(index).unwrap_or_else(|| Name::Shared(name.into()));
            Entry { name, value: value.into() }
        })
    }

    /// Adds the newest entry, after the oldest ones were evicted to make room (§4.4).
    pub(super) fn insert(&mut self, entry: Entry) {
        self.evict(self.capacity - entry.size());
        self.size += entry.size();
        self.entries.push_front(entry);
    }

    /// Empties the table, as an entry larger than the table does (§4.4).
    pub(super) fn clear(&mut self) {
        self.evict(0);
    }

    pub(super) fn resize(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.evict(capacity);
    }

    pub(super) const fn size(&self) -> usize {
        self.size
    }

    pub(super) fn kept(&self) -> usize {
        // Each text is an allocation of its own; [`OVERHEAD`], counted in the size, stands for what that adds.
        self.size + self.entries.capacity() * size_of::<Entry>()
    }

    /// The name at `index`. It is shared and not copied, because two bytes of a block can ask for a name as long as
    /// the table.
    fn name_at(&self, index: usize) -> Option<Name> {
        let index = index.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, _)) => Some(Name::Static(name)),
            None => Some(self.entries.get(index - STATIC.len())?.name.clone()),
        }
    }

    /// Evicts the oldest entries, until the others have at most `size` bytes.
    fn evict(&mut self, size: usize) {
        while self.size > size {
            let Some(oldest) = self.entries.pop_back() else { return };
            self.size -= oldest.size();
        }
        if self.entries.is_empty() {
            // Frees the memory, so that the table is as small as one that has never had an entry.
            self.entries = VecDeque::new();
        }
    }
}

/// Leaves the fields out, because they may hold secrets.
impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, size, capacity } = self;
        let mut shown = f.debug_struct("Table");
        shown.field("entries", &entries.len()).field("size", size).field("capacity", capacity).finish()
    }
}

/// An entry of the dynamic table.
pub(super) struct Entry {
    name: Name,
    value: Box<[u8]>,
}

#[derive(Clone)]
enum Name {
    Static(&'static [u8]),
    /// One allocation for all entries that took their name from the same index.
    Shared(Arc<[u8]>),
}

impl Name {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Static(name) => name,
            Self::Shared(name) => name,
        }
    }
}

impl Entry {
    fn size(&self) -> usize {
        self.name.bytes().len() + self.value.len() + OVERHEAD
    }
}

/// Bytes that an entry counts beside its text (§4.1).
const OVERHEAD: usize = 32;

/// The static table (RFC 7541, Appendix A).
const STATIC: [(&[u8], &[u8]); 61] = [
    (b":authority", b""),
    (b":method", b"GET"),
    (b":method", b"POST"),
    (b":path", b"/"),
    (b":path", b"/index.html"),
    (b":scheme", b"http"),
    (b":scheme", b"https"),
    (b":status", b"200"),
    (b":status", b"204"),
    (b":status", b"206"),
    (b":status", b"304"),
    (b":status", b"400"),
    (b":status", b"404"),
    (b":status", b"500"),
    (b"accept-charset", b""),
    (b"accept-encoding", b"gzip, deflate"),
    (b"accept-language", b""),
    (b"accept-ranges", b""),
    (b"accept", b""),
    (b"access-control-allow-origin", b""),
    (b"age", b""),
    (b"allow", b""),
    (b"authorization", b""),
    (b"cache-control", b""),
    (b"content-disposition", b""),
    (b"content-encoding", b""),
    (b"content-language", b""),
    (b"content-length", b""),
    (b"content-location", b""),
    (b"content-range", b""),
    (b"content-type", b""),
    (b"cookie", b""),
    (b"date", b""),
    (b"etag", b""),
    (b"expect", b""),
    (b"expires", b""),
    (b"from", b""),
    (b"host", b""),
    (b"if-match", b""),
    (b"if-modified-since", b""),
    (b"if-none-match", b""),
    (b"if-range", b""),
    (b"if-unmodified-since", b""),
    (b"last-modified", b""),
    (b"link", b""),
    (b"location", b""),
    (b"max-forwards", b""),
    (b"proxy-authenticate", b""),
    (b"proxy-authorization", b""),
    (b"range", b""),
    (b"referer", b""),
    (b"refresh", b""),
    (b"retry-after", b""),
    (b"server", b""),
    (b"set-cookie", b""),
    (b"strict-transport-security", b""),
    (b"transfer-encoding", b""),
    (b"user-agent", b""),
    (b"vary", b""),
    (b"via", b""),
    (b"www-authenticate", b""),
];
