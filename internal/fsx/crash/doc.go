// Package crash simulates power cuts. It is used by tests alone.
//
// A Recorder stands between a program and a scratch directory. Every operation
// is performed there, so the program runs on a real file system, and every
// change is written down. Afterwards State makes, in a fresh directory, what a
// disk could hold if the power had failed after change k:
//
//	rec, _ := crash.New(root)
//	fs := &fsx.FS{Intercept: rec.Intercept}
//	… the program works in root …
//	acked := rec.Len() // what was promised up to here must hold from here on
//	rec.Sweep(scratch, 10, func(cut crash.Cut, dir string) error {
//		… open dir, check it, cut.K >= acked tells what must be there …
//	})
//
// # The model
//
// It takes from a file system what POSIX does not promise, which is more than
// ext4, xfs or btrfs take:
//
//   - Data of a file are durable as of its last Sync. The name of a file is not:
//     a Sync of the file says nothing about the directory it stands in.
//   - Names (create, mkdir, link, remove, rename) are durable as of the next
//     SyncDir of the directory that they stand in. A new directory has its own
//     name in its parent, which needs a SyncDir of the parent.
//   - Every change that is not durable survives with the given probability,
//     each on its own: later ones may survive where earlier ones do not, names
//     where the data do not, and the other way round.
//   - A write survives in pieces, cut at multiples of 4 KiB. One in eight of the
//     surviving pieces is torn: it has its new bytes up to a multiple of 512
//     bytes, and what stood there before from that point on.
//   - The size of a file is metadata: a write that extended it may survive as a
//     size without data (zeros), and data without the size are lost.
//   - A rename within a directory is atomic. From one to another it may leave
//     both names, but never none.
//   - A truncate survives whole or not at all.
//   - What was there when New was called is durable.
//
// With a survival of 0 nothing survives that was not synced: the state that a
// careful program must be able to start from. A survival of 1 is what a killed
// process leaves behind.
//
// Not in the model: permissions, times, and sectors that go bad. Operations
// that fail are taken not to have happened. All paths must lie under the root
// as it was given to New, without symbolic links on the way.
package crash
