//! A list of numbers that is on the stack while it is short.

/// The list is almost always short: a caller's selectors, or the entries that it matches.
#[derive(Debug)]
pub(super) struct Few {
    here: [u32; Self::HERE],
    count: usize,
    /// All numbers, once there are more than fit into `here`.
    elsewhere: Vec<u32>,
}

impl Few {
    /// A pod has about twenty selectors.
    const HERE: usize = 64;

    pub(super) fn push(&mut self, number: u32) {
        if self.count < Self::HERE {
            self.here[self.count] = number;
        } else {
            if self.count == Self::HERE {
                self.elsewhere.extend_from_slice(&self.here);
            }
            self.elsewhere.push(number);
        }
        self.count += 1;
    }

    pub(super) fn as_slice(&self) -> &[u32] {
        if self.count <= Self::HERE { &self.here[..self.count] } else { &self.elsewhere }
    }

    pub(super) fn sort(&mut self) {
        if self.count <= Self::HERE {
            self.here[..self.count].sort_unstable();
        } else {
            self.elsewhere.sort_unstable();
        }
    }
}

impl Default for Few {
    fn default() -> Self {
        Self { here: [0; Self::HERE], count: 0, elsewhere: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_a_list_at_any_length() {
        for length in [0, 1, 63, 64, 65, 1000] {
            let mut few = Few::default();
            (0..length).rev().for_each(|number| few.push(number));
            few.sort();
            assert_eq!(few.as_slice(), (0..length).collect::<Vec<_>>());
        }
    }
}
