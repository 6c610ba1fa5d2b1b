package server

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kedgebackup/kedge/pack"
)

// Trees that can be nested for nothing, and large ones in one another, end join with a word.
func TestJoinBombs(t *testing.T) {
	dir := bupRepo(t)
	record, blob := bupObject(pack.Blob, "")
	requests := "receive-objects-v2\n" + record
	nest := func(body string) pack.ID {
		record, id := bupObject(pack.Tree, body)
		requests += record
		return id
	}
	bomb := nest("100644 e\x00" + string(blob.AppendBytes(nil)))
	for range 60 {
		bomb = nest("40000 a\x00" + string(bomb.AppendBytes(nil)) + "40000 b\x00" + string(bomb.AppendBytes(nil)))
	}
	chain := nest("100644 e\x00" + string(blob.AppendBytes(nil)))
	for range 5 {
		chain = nest("40000 !\x00" + string(chain.AppendBytes(nil)) + "100644 " + strings.Repeat("n", 32<<20) + "\x00" + string(blob.AppendBytes(nil)))
	}
	requests += bupU32(0)
	if _, err := bupAsk(t, bupOwner(dir), requests); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[pack.ID]string{bomb: "with nothing in them", chain: "with those that it is in"} {
		if _, err := bupAsk(t, bupOwner(dir), "join "+id.String()+"\n"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("join %v: %v", id, err)
		}
	}
}

// Objects of more than 2 MiB wait in a file until they are looked at.
func TestReceiveLarge(t *testing.T) {
	dir := bupRepo(t)
	requests := "receive-objects-v2\n"
	var ids []pack.ID
	for i := range 3 {
		body := bytes.Repeat([]byte{byte(i)}, 5<<20)
		entry, crc := pack.NewEncoder(0).Append(nil, pack.Blob, body)
		id := pack.Sum(pack.Blob, body)
		requests += bupRecord(id, crc, entry)
		ids = append(ids, id)
	}
	if out, err := bupAsk(t, bupOwner(dir), requests+bupU32(0)); err != nil || !strings.Contains(out, ".idx\n") {
		t.Fatalf("%q, %v", out, err)
	}
	for _, id := range ids {
		out, err := bupAsk(t, bupOwner(dir), "join "+id.String()+"\n")
		if err != nil || len(out) < 5<<20 {
			t.Errorf("join %v: %d bytes, %v", id, len(out), err)
		}
	}
	bupFsck(t, dir)
	if _, err := bupAsk(t, bupOwner(dir), requests[:len(requests)-9]); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut short: %v", err)
	}
	wrong := []byte(requests)
	wrong[len(wrong)-9] ^= 1
	if _, err := bupAsk(t, bupOwner(dir), string(wrong)+bupU32(0)); err == nil {
		t.Error("a large object that is damaged is taken")
	}
	if left, err := os.ReadDir(filepath.Join(dir, "kedge", "tmp")); err == nil && len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
