package fsx

// OpenDirOld is OpenDir as on a kernel without openat2, O_TMPFILE and renameat2.
func OpenDirOld(path string) (*Dir, error) { return openDir(&kernel{old: true}, path) }

// HasOpenat2 reports whether the kernel is asked for a path in one call.
func (d *Dir) HasOpenat2() bool { return d.kern.hasOpenat2() }

// Temporary returns the name that the target has until LinkAs.
func (t *Target) Temporary() string { return t.temp }
