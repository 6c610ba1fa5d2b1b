package save

import "sync"

// callbacks calls the functions of Options, one at a time, and counts what they
// are told of. The feeder, the sink and the clock of the progress share it.
type callbacks struct {
	mu         sync.Mutex
	o          *Options
	unreadable int64
	changed    int64
	progress   Progress
}

// remark names something that is no reason for another exit code.
func (c *callbacks) remark(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warn(path, err)
}

// unread names something that is missing or stale in the save.
func (c *callbacks) unread(path string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unreadable++
	c.warn(path, err)
}

// torn names a file that changed while it was read.
func (c *callbacks) torn(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changed++
	c.warn(path, errChanged)
}

// warn calls Options.Warn, with mu held.
func (c *callbacks) warn(path string, err error) {
	if c.o.Warn != nil {
		c.o.Warn(path, err)
	}
}

// seen tells of a path that is in the save, or gone.
func (c *callbacks) seen(path string, dir bool, status byte) {
	if c.o.Seen == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.Seen(path, dir, status)
}

// reading notes what is being read, for the progress.
func (c *callbacks) reading(path string) {
	if c.o.Progress == nil {
		return
	}
	c.mu.Lock()
	c.progress.Path = path
	c.mu.Unlock()
}

// read counts bytes that were read, and a file if it is complete.
func (c *callbacks) read(files, bytes int64) {
	if c.o.Progress == nil {
		return
	}
	c.mu.Lock()
	c.progress.Files += files
	c.progress.Bytes += bytes
	c.mu.Unlock()
}

// report calls Options.Progress.
func (c *callbacks) report() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.o.Progress(c.progress)
}
