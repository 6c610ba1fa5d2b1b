package repo

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"

	"github.com/kedgebackup/kedge/internal/fsx"
	"github.com/kedgebackup/kedge/pack"
)

const (
	fileReceipts = "kedge/receipts"
	maxReceipt   = 2 << 10 // bytes of a line
)

// Receipt is one line of kedge/receipts, the diary of all moves of refs. It is
// written and made durable before the ref moves, so a line may stand for a
// move that did not happen (the process died, or git was faster); no move that
// kedge made is without one. A line is text, its fields separated by one space:
//
//	1 1700000000 refs/heads/etc 0000…0 5e1c…9b 4b82…04 1699999990+0100 - 12 3456 0.250 1699999999 e3b0…55
//	│ │          │              │      │       │       │               │ │  │    │     │          └ SHA-256 of the line before, its
//	│ │          │              │      │       │       │               │ │  │    │     │            newline included; zeros in the first
//	│ │          │              │      │       │       │               │ │  │    │     └ the client's clock, seconds since the epoch
//	│ │          │              │      │       │       │               │ │  │    └ seconds that the session took
//	│ │          │              │      │       │       │               │ └──┴ objects and bytes received
//	│ │          │              │      │       │       │               └ who moved it, "-" for nobody; % and what is not graphic as %XX
//	│ │          │              │      │       │       └ author date and zone of new, "-" if new is no commit
//	│ │          │              │      │       └ tree of new, zeros if new is no commit
//	│ │          │              └──────┴ the ids before and after, zeros for none
//	│ │          └ full name of the ref
//	│ └ the time of the server, seconds since the epoch, never less than in the line before
//	└ 1, 2, 3, …
//
// A line has at most 2,048 bytes. Whoever changes an old line would have to
// change all later ones, of which mirrors hold copies.
type Receipt struct {
	Seq        int64
	Time       int64
	Ref        string
	Old, New   pack.ID
	Tree       pack.ID
	Author     string // "1699999990+0100"
	Principal  string
	Objects    int64
	Bytes      int64
	Seconds    float64
	ClientTime int64
	Prev       [sha256.Size]byte
}

// Append appends the line, with its newline.
func (r *Receipt) Append(dst []byte) []byte {
	dst = strconv.AppendInt(dst, r.Seq, 10)
	dst = strconv.AppendInt(append(dst, ' '), r.Time, 10)
	dst = append(append(dst, ' '), r.Ref...)
	for _, id := range []pack.ID{r.Old, r.New, r.Tree} {
		dst = id.AppendHex(append(dst, ' '))
	}
	dst = append(append(dst, ' '), orDash(r.Author)...)
	dst = append(append(dst, ' '), escapeWord(r.Principal)...)
	dst = strconv.AppendInt(append(dst, ' '), r.Objects, 10)
	dst = strconv.AppendInt(append(dst, ' '), r.Bytes, 10)
	dst = strconv.AppendFloat(append(dst, ' '), r.Seconds, 'f', 3, 64)
	dst = strconv.AppendInt(append(dst, ' '), r.ClientTime, 10)
	dst = hex.AppendEncode(append(dst, ' '), r.Prev[:])
	return append(dst, '\n')
}

// orDash keeps a field from being empty.
func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// escapeWord makes one field of any string.
func escapeWord(s string) string {
	if s == "-" {
		return "%2D"
	}
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c > ' ' && c < 0x7f && c != '%' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return orDash(b.String())
}

// unescapeWord undoes escapeWord.
func unescapeWord(s string) (string, bool) {
	if s == "-" {
		return "", true
	}
	var b []byte
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			b = append(b, s[i])
			continue
		}
		if i+3 > len(s) {
			return "", false
		}
		c, err := hex.DecodeString(s[i+1 : i+3])
		if err != nil {
			return "", false
		}
		b = append(b, c...)
		i += 2
	}
	return string(b), escapeWord(string(b)) == s
}

// ParseReceipt reads the line at the front of b. What it accepts, Append gives
// back byte for byte.
func ParseReceipt(b []byte) (r Receipt, rest []byte, err error) {
	line, rest, ok := bytes.Cut(b, []byte("\n"))
	if !ok || len(line) >= maxReceipt {
		return r, b, errors.New("line is cut off or too long")
	}
	f := strings.Split(string(line), " ")
	if len(f) != 13 {
		return r, b, fmt.Errorf("%d fields in a line of 13", len(f))
	}
	var errs []error
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		errs = append(errs, err)
		return n
	}
	id := func(s string) pack.ID {
		id, err := pack.ParseID(s)
		errs = append(errs, err)
		return id
	}
	r = Receipt{
		Seq: number(f[0]), Time: number(f[1]), Ref: f[2],
		Old: id(f[3]), New: id(f[4]), Tree: id(f[5]),
		Objects: number(f[8]), Bytes: number(f[9]), ClientTime: number(f[11]),
	}
	if f[6] != "-" {
		r.Author = f[6]
	}
	r.Principal, ok = unescapeWord(f[7])
	r.Seconds, err = strconv.ParseFloat(f[10], 64)
	errs = append(errs, err)
	prev, err := hex.DecodeString(f[12])
	errs = append(errs, err, CheckRefName(r.Ref))
	if err := firstErr(errs...); err != nil || !ok || len(prev) != len(r.Prev) {
		return Receipt{}, b, firstErr(err, errors.New("bad field"))
	}
	copy(r.Prev[:], prev)
	if !bytes.Equal(r.Append(nil), b[:len(line)+1]) {
		return Receipt{}, b, errors.New("not written as it should be")
	}
	return r, rest, nil
}

// Receipts calls fn for every line of the diary in order, and fails with a
// *pack.CorruptError where the chain is broken. A last line without a newline
// was never finished and is passed over.
func (p *Packs) Receipts(ctx context.Context, fn func(Receipt) error) error {
	return p.keeper.receipts(ctx, fn)
}

func (d *Dir) receipts(ctx context.Context, fn func(Receipt) error) error {
	f, err := d.fs.Open(d.name(fileReceipts))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	return scanReceipts(ctx, f, fn)
}

// scanReceipts calls fn for every line of a diary.
func scanReceipts(ctx context.Context, r io.Reader, fn func(Receipt) error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	var last Receipt
	var sum [sha256.Size]byte
	for off := int64(0); ; {
		line, err := in.ReadSlice('\n')
		if err == io.EOF {
			return nil
		} else if err != nil && err != bufio.ErrBufferFull {
			return err
		}
		r, _, err := ParseReceipt(line)
		if err == nil && (r.Seq != last.Seq+1 || r.Prev != sum || r.Time < last.Time) {
			err = errors.New("line does not follow from the one before")
		}
		if err != nil {
			return &pack.CorruptError{File: fileReceipts, Off: off, Reason: err.Error()}
		}
		if err := firstErr(ctx.Err(), fn(r)); err != nil {
			return err
		}
		off += int64(len(line))
		last, sum = r, sha256.Sum256(line)
	}
}

// addReceipt appends a line under the ref lock: open, [truncate], write, fsync,
// close. It fills in Seq, Time and Prev and returns the line that was written.
//
// After a failed write or sync nobody knows which bytes of the file are on the
// disk, and the next sync would say that all is well. So then the good lines
// are copied to a new file, which takes the place of the old one.
func (l *refLock) addReceipt(r Receipt) (Receipt, error) {
	fsys, name := l.d.fs, l.d.name(fileReceipts)
	f, err := fsys.OpenWrite(name)
	if errors.Is(err, fs.ErrNotExist) {
		if err = fsys.Replace(name, nil, modeState); err == nil {
			f, err = fsys.OpenWrite(name)
		}
	}
	if err != nil {
		return r, err
	}
	size, err := f.Size()
	if err != nil {
		f.Close()
		return r, err
	}
	good, last, sum, err := receiptsTail(f, size)
	if err != nil {
		f.Close()
		return r, err
	}
	r.Seq, r.Prev = last.Seq+1, sum
	r.Time = max(l.d.now().Unix(), last.Time)
	line := r.Append(nil)
	if len(line) > maxReceipt {
		f.Close()
		return r, fmt.Errorf("receipt for %s: line longer than %d bytes", r.Ref, maxReceipt)
	}
	if size > good {
		err = f.Truncate(good)
	}
	if err == nil {
		_, err = f.WriteAt(line, good)
	}
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		_ = renewReceipts(fsys, name, good)
	}
	return r, err
}

// receiptsTail finds the end of the last good line, that line, and its hash. A
// last line that is torn, or does not follow from the one before, is not good.
func receiptsTail(f io.ReaderAt, size int64) (good int64, last Receipt, sum [sha256.Size]byte, err error) {
	start := max(0, size-4*maxReceipt)
	buf := make([]byte, size-start)
	if _, err := f.ReadAt(buf, start); err != nil && err != io.EOF {
		return 0, last, sum, err
	}
	if i := bytes.IndexByte(buf, '\n'); start > 0 { // the first line is cut at its front
		start += int64(i + 1)
		buf = buf[i+1:]
	}
	end := bytes.LastIndexByte(buf, '\n') + 1
	for range 2 { // the last line, and if that is no good the one before
		line, before := lastLine(buf[:end])
		if len(line) == 0 {
			break
		}
		var prev [sha256.Size]byte
		if len(before) > 0 {
			prevLine, _ := lastLine(before)
			prev = sha256.Sum256(prevLine)
		}
		r, _, err := ParseReceipt(line)
		if err == nil && r.Prev == prev {
			return start + int64(end), r, sha256.Sum256(line), nil
		}
		end = len(before)
	}
	if end > 0 || start > 0 {
		return 0, last, sum, &pack.CorruptError{File: fileReceipts, Off: start + int64(end), Reason: "the last lines are no receipts"}
	}
	return 0, last, sum, nil
}

// lastLine takes the last line off b, which ends in a newline.
func lastLine(b []byte) (line, before []byte) {
	if len(b) == 0 {
		return nil, nil
	}
	i := bytes.LastIndexByte(b[:len(b)-1], '\n') + 1
	return b[i:], b[:i]
}

// renewReceipts replaces the file by a copy of its first good bytes.
func renewReceipts(fsys *fsx.FS, name string, good int64) error {
	from, err := fsys.Open(name)
	if err != nil {
		return err
	}
	defer from.Close()
	temp := name + ".new"
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	to, err := fsys.Create(temp, modeState)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, io.NewSectionReader(from, 0, good))
	if err == nil {
		err = to.Sync()
	}
	if err = firstErr(err, to.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(temp, name); err != nil {
		return err
	}
	return fsys.SyncDir(parentOf(name))
}
