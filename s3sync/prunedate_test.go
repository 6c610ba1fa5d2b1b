package s3sync_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/s3sync"
)

// Whoever may make generations cannot say of what is there that it was dropped long ago: the
// grace begins with the first manifest that drops it.
func TestPruneBackdated(t *testing.T) {
	ctx := context.Background()
	for _, freed := range []s3sync.Spans{nil, {{First: 1, Last: 8}}} {
		for since := range uint64(4) {
			o := newOrchard(t)
			o.weeks(8)
			g, err := o.b.Latest(ctx)
			if err != nil {
				t.Fatal(err)
			}
			x := g.Manifest
			x.N, x.Prev, x.Kind, x.Base, x.Files, x.Gone, x.Freed = g.N+1, g.Sum, s3sync.Full, 0, g.Files, nil, freed
			named := make(map[string]bool)
			for _, f := range g.Files {
				named[f.Key] = true
			}
			for _, key := range o.keys() {
				if !named[key] && key != "probe" && !strings.HasSuffix(key, fmt.Sprintf("%016x", ^x.N)) {
					x.Drops = append(x.Drops, s3sync.Drop{Key: key, Since: since, First: 2, Last: 2})
				}
			}
			slices.SortFunc(x.Drops, func(a, b s3sync.Drop) int { return strings.Compare(a.Key, b.Key) })
			text := x.Append(nil)
			for _, dir := range []string{"manifests", "bases"} {
				body := s3sync.Body{ReaderAt: bytes.NewReader(text), Size: int64(len(text)), SHA256: s3sync.SumOf(text)}
				if _, err := o.m.Put(ctx, fmt.Sprintf("%s%s/%016x", o.b.Prefix, dir, ^x.N), body); err != nil {
					t.Fatal(err)
				}
			}
			o.m.before = func(_ int64, op, key string) error {
				if op == "delete" {
					return errors.New("deleted at once")
				}
				return nil
			}
			r := o.mustPrune(6)
			if r.Deleted > 0 || r.Dropped == 0 {
				t.Errorf("%+v", r)
			}
			o.clock.add(2 * day)
			o.mustPrune(6)
			o.m.before = nil
			o.intact()
		}
	}
}
