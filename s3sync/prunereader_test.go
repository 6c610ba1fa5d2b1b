package s3sync_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
	"github.com/kedgebackup/kedge/s3sync"
)

// Who reads an old generation goes on when it is dropped. When it is deleted, what had not been
// read yet is named as missing, and is never something else; the newest generation is there.
func TestPruneReader(t *testing.T) { kinds(t, testPruneReader) }

func testPruneReader(t *testing.T, lock func(*s3sync.Bucket) *s3sync.Bucket) {
	ctx := context.Background()
	o := newOrchard(t)
	o.b = lock(o.b)
	o.save(20)
	o.mirror(o.b)
	old, err := o.b.At(ctx, 1)
	if err != nil {
		t.Fatal(err)
	}
	o.repack() // what generation 1 has in its packs others have in theirs
	o.save(20)
	o.mirror(o.b)
	reader := func() (*repo.Packs, error) { return o.b.Open(ctx, old, s3sync.NewCache(0)) }
	read := func(p *repo.Packs) error {
		ids := o.saves[0].Blobs
		return p.Get(ctx, ids, func(i int, kind pack.Type, body []byte) error {
			if pack.Sum(kind, body) != ids[i] {
				t.Errorf("%s: other bytes", ids[i])
			}
			return nil
		})
	}
	early, err := reader()
	if err != nil {
		t.Fatal(err)
	}
	if r := o.mustPrune(1); r.Dropped == 0 || r.Deleted > 0 {
		t.Fatalf("%+v", r)
	}
	if err := read(early); err != nil {
		t.Errorf("dropped: %v", err)
	}
	if late, err := reader(); err != nil || read(late) != nil {
		t.Errorf("opened after it was dropped: %v", err)
	}
	o.clock.add(4 * day)
	if r := o.mustPrune(1); r.Deleted == 0 {
		t.Fatalf("%+v", r)
	}
	late, err := reader()
	if err == nil {
		err = read(late)
	}
	if !errors.Is(err, fs.ErrNotExist) && !errors.As(err, new(*pack.CorruptError)) && !errors.As(err, new(*repo.MissingError)) {
		t.Errorf("deleted: %v", err)
	}
	if _, err := o.b.At(ctx, 1); !errors.As(err, new(*repo.NotFoundError)) {
		t.Errorf("generation 1: %v", err)
	}
	o.intact()
}
