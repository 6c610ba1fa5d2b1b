// Package fsx is the seam between kedge and the file system.
//
// It has two halves.
//
// FS and File are the half through which every byte of a repository, a file
// index or a cache is written. They do what package os does, and no more, but
// every operation can be observed, failed or cut short by a test (FS.Intercept):
// the crash, fault and order tests of the whole product hang on that one hook.
// A File that failed once to write, sync or close refuses everything after
// (invariant: a failed fsync poisons the file).
//
// Dir is the half through which a save reads sources and a restore writes
// targets: a directory held by descriptor, from which one name at a time is
// opened without following symbolic links, so that nobody who can write in the
// tree can lead a process with more rights out of it (invariant I6).
//
// A Stack holds a path of any depth as Dirs. A Source is a file to be read or an
// inode whose metadata are wanted, a Target a new file that has no name before it
// is whole, and Fchown, Fchmod and Futimens set what a descriptor holds.
//
// The package runs on Linux from 3.10 on. What newer kernels do better (openat2,
// O_TMPFILE, renameat2) is used where it is found; tests run both ways.
//
// The tests of other packages break their file systems with the sub-packages
// fault (errors, kills, traces) and crash (power cuts).
//
// The package knows nothing about packs, trees or saves.
package fsx
