package server

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/remote/access"
	"github.com/kedgebackup/kedge/remote/wire"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/repo/repotest"
)

// full reports whether an error says that a quota is used up.
func full(err error) bool {
	refused := new(repo.RefusedError)
	return errors.As(err, &refused) && strings.Contains(refused.Reason, "quota")
}

// TestQuota: a repository does not grow beyond what is allowed.
func TestQuota(t *testing.T) {
	p := newPlace(t)
	used, err := p.open(t).PackBytes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	before := state(t, p.root)
	o := p.options(t, access.Append)
	o.Grant.Quota = used + 64<<10
	for _, n := range []int{64 << 10, 3 << 20} {
		c := dialRaw(t, o)
		session := c.begin()
		c.add(session, repo.Data, repotest.Entry(pack.Blob, noise(1000)))
		c.must(wire.Ping)
		c.add(session, repo.Data, repotest.Entry(pack.Blob, noise(n)))
		if err := c.commit(session); !full(err) {
			t.Errorf("%d bytes: %v", n, err)
		}
		c.leave()
		same(t, before, state(t, p.root))
	}
	c := dialRaw(t, o)
	session := c.begin()
	c.add(session, repo.Data, repotest.Entry(pack.Blob, noise(50<<10)))
	for range 10 { // what is there costs nothing
		c.add(session, repo.Data, repotest.Entry(pack.Blob, noise(50<<10)))
		c.add(session, repo.Data, p.one.Data...)
	}
	if err := c.commit(session); err != nil {
		t.Error(err)
	}
	c.leave()
	o.Grant.Quota = used - 1
	if _, err := dialRaw(t, o).ask(wire.Begin); !full(err) {
		t.Error(err)
	}
	fsck(t, p.dir())
}

// TestQuotaShared: uploads that are open together share the quota, whether what they sent
// was written already, gathers in memory, or stands in a file beside the packs.
func TestQuotaShared(t *testing.T) {
	for _, size := range []int{40 << 10, 300 << 10, 3 << 20} {
		p := newPlace(t)
		used, err := p.open(t).PackBytes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		o := p.options(t, access.Append)
		o.Grant.Quota = used + int64(size)*3/2
		first, second := dialRaw(t, o), dialRaw(t, o)
		one, two := first.begin(), second.begin()
		first.add(one, repo.Data, repotest.Entry(pack.Blob, noise(size)))
		first.must(wire.Ping)
		second.add(two, repo.Data, repotest.Entry(pack.Blob, noise(size)))
		if err := second.commit(two); !full(err) {
			t.Errorf("%d bytes twice: %v", size, err)
		}
		if err := first.commit(one); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
		first.leave()
		second.leave()
		// With nobody there nothing is claimed, and one that died claims nothing either.
		dead := filepath.Join(p.dir(), "kedge", "tmp", "0123456789abcdef")
		if err := errors.Join(os.Mkdir(dead, 0o700), os.WriteFile(dead+"/claim", nil, 0o600), os.Truncate(dead+"/claim", 1<<40)); err != nil {
			t.Fatal(err)
		}
		third := dialRaw(t, o)
		three := third.begin()
		third.add(three, repo.Data, repotest.Entry(pack.Blob, noise(size/3)))
		if err := third.commit(three); err != nil {
			t.Errorf("%d bytes afterwards: %v", size/3, err)
		}
		third.leave()
		total, err := p.open(t).PackBytes(t.Context())
		if err != nil || total > o.Grant.Quota {
			t.Errorf("%d bytes, %d are allowed, %v", total, o.Grant.Quota, err)
		}
		fsck(t, p.dir())
	}
}
