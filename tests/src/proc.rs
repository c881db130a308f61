//! A proc of a test's own, for `HOST_PROC`: real processes that seem to run in containers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

/// The folder; deleted when dropped.
#[derive(Debug)]
pub struct Proc(TempDir);

impl Proc {
    /// A proc that shows this process with such a `cgroup` file.
    ///
    /// # Panics
    /// When it cannot be made.
    #[must_use]
    pub fn of_this_process(cgroup: &str) -> Self {
        let proc = Self(tempfile::tempdir().expect("a temporary folder"));
        let pid = std::process::id().to_string();
        let (real, folder) = (Path::new("/proc").join(&pid), proc.path().join(&pid));
        fs::create_dir(&folder).expect("created");
        for name in ["stat", "status"] {
            symlink(real.join(name), folder.join(name)).expect("linked");
        }
        // A link to the link would lead to another path.
        let program = fs::read_link(real.join("exe")).expect("this process has a program");
        symlink(program, folder.join("exe")).expect("linked");
        proc.set("cgroup", cgroup);
        proc
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Replaces a text of this process.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn set(&self, name: &str, text: &str) {
        let file = self.path().join(std::process::id().to_string()).join(name);
        fs::write(file, text).expect("written");
    }
}
