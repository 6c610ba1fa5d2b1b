package repo

import (
	"context"
	"errors"
	"io/fs"
	"path"
)

// fileClaim is a file in the directory of a session whose length, and nothing else of it,
// says how many bytes an upload is about to add to the repository. It is a hole: it takes
// no room. Other processes see it, as one server process answers each client of sshd's, and
// it goes with the session.
//
// The packs beside it would say the same a mebibyte too late, because that is what a writer
// gathers; and those of a collection are no growth.
const fileClaim = "claim"

// Claim says how many bytes this upload is to add to the repository beyond what it has
// published. Who claims first and then compares what Claimed returns with a limit cannot
// be above it, however many do so at once; it may happen that two are refused of which one
// would have fit.
func (u *Upload) Claim(n int64) error {
	u.claiming.Lock()
	defer u.claiming.Unlock()
	if u.ended {
		return ErrClosed
	}
	if u.claim == nil {
		f, err := u.dir.fs.Create(path.Join(u.dir.lease.tmp, fileClaim), modePublished)
		if err != nil {
			return err
		}
		u.claim = f
	}
	return u.claim.Truncate(n)
}

// Claimed returns what all uploads that are open claim, this one included.
func (u *Upload) Claimed(ctx context.Context) (n int64, err error) {
	d := u.dir
	list, err := d.fs.ReadDir(d.name(dirTmp))
	for _, e := range list {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		info, err := d.fs.Lstat(d.name(path.Join(dirTmp, e.Name(), fileClaim)))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it claims nothing, or has ended
		} else if err != nil {
			return 0, err
		}
		n += info.Size()
	}
	return n, err
}

// Close ends the upload and throws away what was not committed.
func (u *Upload) Close() error {
	u.claiming.Lock()
	u.ended = true
	if u.claim != nil {
		_ = u.claim.Close() // what it says ends with its name
		u.claim = nil
	}
	u.claiming.Unlock()
	return u.session.Close()
}
