//! The containers that machines keep their state in.

/// A container of a fixed number of `T`, borrowed or owned: `&mut [T]`, `[T; N]`, `Box<[T]>`,
/// `Vec<T>`, and whatever else has both `AsRef<[T]>` and `AsMut<[T]>`.
///
/// Both must give the same slice every time. One whose slices change loses what was stored in it,
/// and does no other harm.
pub trait Array<T>: AsRef<[T]> + AsMut<[T]> {}

impl<T, C: AsRef<[T]> + AsMut<[T]>> Array<T> for C {}
