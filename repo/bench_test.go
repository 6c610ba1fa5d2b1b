package repo

import (
	"context"
	"encoding/binary"
	"sync/atomic"
	"testing"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

// benchRepo makes a repository of n blobs of some kilobytes each, in order.
func benchRepo(b testing.TB, n, size int) (*Packs, string, []pack.ID) {
	b.Helper()
	ctx := context.Background()
	p, dir := newRepo(b, InitOptions{FS: new(fsx.FS)})
	sess, err := p.Begin(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer sess.Close()
	enc := pack.NewEncoder(1)
	ids := make([]pack.ID, 0, n)
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(i * i >> 3)
	}
	var batch []pack.Entry
	for i := range n {
		binary.BigEndian.PutUint64(body, uint64(i))
		e := pack.Entry{ID: pack.Sum(pack.Blob, body)}
		e.Bytes, e.CRC = enc.Append(nil, pack.Blob, body)
		ids = append(ids, e.ID)
		if batch = append(batch, e); len(batch) == 100 || i == n-1 {
			if err := sess.Add(ctx, Data, batch); err != nil {
				b.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	if err := sess.Commit(ctx); err != nil {
		b.Fatal(err)
	}
	return p, dir, ids
}

// absent returns ids of objects that are nowhere.
func absent(n int) []pack.ID {
	ids := make([]pack.ID, n)
	for i := range ids {
		ids[i] = pack.Sum(pack.Blob, binary.BigEndian.AppendUint32([]byte("absent"), uint32(i)))
	}
	return ids
}

// TestMissingCost: Missing does not allocate for each id.
func TestMissingCost(t *testing.T) {
	ctx := context.Background()
	p, _, ids := benchRepo(t, 3000, 10)
	gone := absent(3000)
	dst := make([]pack.ID, 0, len(gone))
	for name, ask := range map[string][]pack.ID{"present": ids, "absent": gone} {
		n := testing.AllocsPerRun(5, func() {
			if _, err := p.Missing(ctx, dst, ask); err != nil {
				t.Fatal(err)
			}
		})
		if n > 100 && !raceEnabled {
			t.Errorf("%s: %v allocations for %d ids", name, n, len(ask))
		}
	}
}

func BenchmarkMissingPresent(b *testing.B) {
	p, _, ids := benchRepo(b, 400_000, 10)
	benchMissing(b, p, ids)
}

func BenchmarkMissingAbsent(b *testing.B) {
	p, _, _ := benchRepo(b, 400_000, 10)
	benchMissing(b, p, absent(100_000))
}

func benchMissing(b *testing.B, p *Packs, ids []pack.ID) {
	ctx := context.Background()
	var dst []pack.ID
	var err error
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; i += 100 {
		at := i % (len(ids) - 100)
		if dst, err = p.Missing(ctx, dst[:0], ids[at:at+100]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	const size = 10 << 10
	p, _, ids := benchRepo(b, 20_000, size)
	ctx := context.Background()
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	var n atomic.Int64
	for i := 0; i < b.N; {
		m := min(b.N-i, len(ids), 4000)
		i += m
		err := p.Get(ctx, ids[:m], func(int, pack.Type, []byte) error { n.Add(1); return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
	if int(n.Load()) != b.N {
		b.Fatal(n.Load(), "objects came")
	}
}

func BenchmarkGetOne(b *testing.B) {
	p, _, ids := benchRepo(b, 20_000, 1000)
	ctx := context.Background()
	b.ReportAllocs()
	b.ResetTimer()
	for i := range b.N {
		if err := p.Get(ctx, ids[i%len(ids):][:1], func(int, pack.Type, []byte) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAdd(b *testing.B) {
	p, _ := newRepo(b, InitOptions{FS: new(fsx.FS)})
	ctx := context.Background()
	sess, err := p.Begin(ctx)
	if err != nil {
		b.Fatal(err)
	}
	defer sess.Close()
	const size = 4 << 10
	batch := make([]pack.Entry, 100)
	body := make([]byte, size)
	enc := pack.NewEncoder(0)
	b.SetBytes(size)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; i < b.N; {
		b.StopTimer()
		for k := range batch {
			binary.BigEndian.PutUint64(body, uint64(i))
			e := &batch[k]
			e.ID = pack.Sum(pack.Blob, body)
			e.Bytes, e.CRC = enc.Append(e.Bytes[:0], pack.Blob, body)
			i++
		}
		b.StartTimer()
		if err := sess.Add(ctx, Data, batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := sess.Commit(ctx); err != nil {
		b.Fatal(err)
	}
}
