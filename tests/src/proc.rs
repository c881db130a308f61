//! A fake procfs for `HOST_PROC`, in which real processes seem to run in containers.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use tempfile::TempDir;

/// The folder of the fake procfs. Dropping it deletes it.
#[derive(Debug)]
pub struct Proc(TempDir);

impl Proc {
    /// A procfs that shows this process with this content of its `cgroup` file.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn of_this_process(cgroup: &str) -> Self {
        let proc = Self(tempfile::tempdir().expect("a temporary folder"));
        let pid = std::process::id().to_string();
        let (real, folder) = (Path::new("/proc").join(&pid), proc.path().join(&pid));
        fs::create_dir(&folder).expect("created");
        for name in ["stat", "status"] {
            symlink(real.join(name), folder.join(name)).expect("linked");
        }
        // The link's target, because a link to the link would show another path.
        let program = fs::read_link(real.join("exe")).expect("this process has a program");
        symlink(program, folder.join("exe")).expect("linked");
        proc.set("cgroup", cgroup);
        proc
    }

    /// The path of the folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Replaces a file of this process.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn set(&self, name: &str, text: &str) {
        let file = self.path().join(std::process::id().to_string()).join(name);
        fs::write(file, text).expect("written");
    }
}
