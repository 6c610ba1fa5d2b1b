package wire

import (
	"encoding/binary"
	"math"

	"github.com/kedgebackup/kedge/pack"
	"github.com/kedgebackup/kedge/repo"
)

// BupChunker is the chunker of a new repository that is to be as bup makes it: split by
// rollsum:13, without a section of kedge's.
const BupChunker = "bup"

// OpenRequest asks for a repository: bool Create, text Path, text Chunker, int Expect.
type OpenRequest struct {
	Create  bool   // make it if it is not there
	Path    string // "": the one that the key is pinned to, or the default
	Chunker string // of a new one; "": the default, or BupChunker
	Expect  int64  // bytes that a new one will grow to; 0: unknown
}

// Append appends the encoded message.
func (m *OpenRequest) Append(b []byte) []byte {
	return putInt(putText(putText(putBool(b, m.Create), m.Path), m.Chunker), m.Expect)
}

// ParseOpen reads an OpenRequest.
func ParseOpen(b []byte) (OpenRequest, error) {
	p := parser{b: b, what: "open"}
	m := OpenRequest{Create: p.bool(), Path: p.text(), Chunker: p.text(), Expect: p.int()}
	return m, p.end()
}

// Info describes an open repository: text Path, byte Rights, text Principal,
// bool Created, int Version, text ID, text Chunker, bool SplitTrees,
// int PackSizeLimit, int PackObjects, int Compression, list of texts Globs.
type Info struct {
	Path      string // as the server calls it
	Rights    Rights
	Principal string // who the server takes the client for; with ID it names a cache
	Created   bool   // just now
	Config    repo.Config
	Globs     []string // of the refs that the client may create and move; see MatchRef
}

// Append appends the encoded message.
func (m *Info) Append(b []byte) []byte {
	c := &m.Config
	b = putText(append(putText(b, m.Path), byte(m.Rights)), m.Principal)
	b = putInt(putBool(b, m.Created), int64(c.Version))
	b = putBool(putText(putText(b, c.ID), c.Chunker), c.SplitTrees)
	b = putInt(putInt(putInt(b, c.PackSizeLimit), int64(c.PackObjects)), int64(c.Compression))
	return Names(m.Globs).Append(b)
}

// ParseInfo reads an Info.
func ParseInfo(b []byte) (Info, error) {
	p := parser{b: b, what: "info"}
	m := Info{Path: p.text(), Rights: Rights(p.byte()), Principal: p.text(), Created: p.bool()}
	m.Config = repo.Config{
		Version: int(p.int()), ID: p.text(), Chunker: p.text(), SplitTrees: p.bool(),
		PackSizeLimit: p.int(), PackObjects: int(p.int()), Compression: int(p.int()),
	}
	n := p.count(1)
	for range n {
		m.Globs = append(m.Globs, p.text())
	}
	return m, p.end()
}

// Names is a list of texts.
type Names []string

// Append appends the encoded message.
func (m Names) Append(b []byte) []byte {
	b = putUint(b, uint64(len(m)))
	for _, s := range m {
		b = putText(b, s)
	}
	return b
}

// ParseNames reads Names.
func ParseNames(b []byte) (Names, error) {
	p := parser{b: b, what: "names"}
	m := make(Names, 0, p.count(1))
	for range cap(m) {
		m = append(m, p.text())
	}
	return m, p.end()
}

// RefList is a list of refs: text Name, id ID each.
type RefList []repo.Ref

// Append appends the encoded message.
func (m RefList) Append(b []byte) []byte {
	b = putUint(b, uint64(len(m)))
	for _, r := range m {
		b = putID(putText(b, r.Name), r.ID)
	}
	return b
}

// ParseRefs reads a RefList.
func ParseRefs(b []byte) (RefList, error) {
	p := parser{b: b, what: "refs"}
	n := p.count(1 + idSize)
	m := make(RefList, 0, n)
	for range n {
		m = append(m, repo.Ref{Name: p.text(), ID: p.id()})
	}
	return m, p.end()
}

// IDs is a list of ids without a count: it fills its message.
type IDs []pack.ID

// Append appends the encoded message.
func (m IDs) Append(b []byte) []byte {
	for _, id := range m {
		b = putID(b, id)
	}
	return b
}

// ParseIDs reads IDs and appends them to dst.
func ParseIDs(dst []pack.ID, b []byte) ([]pack.ID, error) {
	p := parser{b: b, what: "ids"}
	for p.err == nil && len(p.b) > 0 {
		dst = append(dst, p.id())
	}
	return dst, p.end()
}

// MissingRequest asks which objects are missing: uint Session, then ids.
type MissingRequest struct {
	Session uint32 // 0: none
	IDs     []pack.ID
}

// Append appends the encoded message.
func (m *MissingRequest) Append(b []byte) []byte {
	return IDs(m.IDs).Append(putUint(b, uint64(m.Session)))
}

// ParseMissing reads a MissingRequest.
func ParseMissing(b []byte) (m MissingRequest, err error) {
	p := parser{b: b, what: "missing"}
	m.Session = p.session()
	for p.err == nil && len(p.b) > 0 {
		m.IDs = append(m.IDs, p.id())
	}
	return m, p.end()
}

func (p *parser) session() uint32 {
	n := p.uint()
	if n > math.MaxUint32 {
		p.fail("there is no such session")
	}
	return uint32(n)
}

// MissingReply says which of the objects asked about are missing: a bit for each, the
// first in the lowest bit of the first byte, 1 if it is missing; bits beyond the last
// are 0. The count of what was asked is not repeated.
type MissingReply struct{ Bits []byte }

// NewMissingReply returns a reply about n objects, none of them missing.
func NewMissingReply(n int) MissingReply { return MissingReply{make([]byte, (n+7)/8)} }

// Set says that object i is missing.
func (m MissingReply) Set(i int) { m.Bits[i/8] |= 1 << (i % 8) }

// Has reports whether object i is missing.
func (m MissingReply) Has(i int) bool { return m.Bits[i/8]&(1<<(i%8)) != 0 }

// ParseMissingReply reads the reply about n objects. It keeps b.
func ParseMissingReply(b []byte, n int) (MissingReply, error) {
	if len(b) != (n+7)/8 || n%8 != 0 && b[n/8]>>(n%8) != 0 {
		return MissingReply{}, badFrame("missing: the reply is about other objects than were asked for")
	}
	return MissingReply{b}, nil
}

// A reply to Get holds, for each object from the first on, one byte and what it calls
// for: 0 nothing, the object is not there; 1 uint n and the entry of n bytes; 2 text,
// the object is damaged, and how. It ends after as many objects as fit in 1 MiB, at
// least one; the client asks again for the rest.
const (
	GotNone    = 0
	GotEntry   = 1
	GotDamaged = 2
)

// AppendEntry appends an object to a reply to Get.
func AppendEntry(b, entry []byte) []byte {
	return append(AppendEntryHead(b, int64(len(entry))), entry...)
}

// AppendEntryHead appends what stands before an entry of n bytes in a reply to Get.
func AppendEntryHead(b []byte, n int64) []byte { return putUint(append(b, GotEntry), uint64(n)) }

// AppendNone appends to a reply to Get that an object is not there.
func AppendNone(b []byte) []byte { return append(b, GotNone) }

// AppendDamaged appends to a reply to Get that an object is damaged.
func AppendDamaged(b []byte, reason string) []byte { return putText(append(b, GotDamaged), reason) }

// ParseEntries calls fn for each object of a reply to Get and returns how many there
// are: at most n. What is the entry, or the reason.
func ParseEntries(b []byte, n int, fn func(i int, how byte, what []byte) error) (int, error) {
	p := parser{b: b, what: "entries"}
	i := 0
	for ; p.err == nil && len(p.b) > 0; i++ {
		how := p.byte()
		var what []byte
		switch how {
		case GotNone:
		case GotEntry, GotDamaged:
			what = p.bytes()
		default:
			p.fail("an object is neither there nor missing")
		}
		if i == n {
			p.fail("there are more objects than were asked for")
		}
		if p.err != nil {
			break
		}
		if err := fn(i, how, what); err != nil {
			return i, err
		}
	}
	if p.err == nil && i == 0 && n > 0 {
		p.fail("there are none")
	}
	return i, p.err
}

// CommitsRequest asks for a commit and what it reaches, in the order of
// repo.CommitWalker: id Tip, uint Skip. The reply is Bodies, as many as fit in
// 1 MiB; the client asks for the rest with Skip. A reply of none is the end.
type CommitsRequest struct {
	Tip  pack.ID
	Skip int
}

// Append appends the encoded message.
func (m *CommitsRequest) Append(b []byte) []byte { return putUint(putID(b, m.Tip), uint64(m.Skip)) }

// ParseCommits reads a CommitsRequest.
func ParseCommits(b []byte) (CommitsRequest, error) {
	p := parser{b: b, what: "commits"}
	m := CommitsRequest{Tip: p.id()}
	if n := p.uint(); n <= math.MaxInt32 {
		m.Skip = int(n)
	} else {
		p.fail("so many are skipped by nobody")
	}
	return m, p.end()
}

// AppendBody appends a text to Bodies: bytes without a count, to the end of the
// message.
func AppendBody(b, body []byte) []byte { return append(putUint(b, uint64(len(body))), body...) }

// ParseBodies calls fn for each text of Bodies.
func ParseBodies(b []byte, fn func(body []byte) error) error {
	p := parser{b: b, what: "bodies"}
	for p.err == nil && len(p.b) > 0 {
		body := p.bytes()
		if p.err != nil {
			break
		}
		if err := fn(body); err != nil {
			return err
		}
	}
	return p.end()
}

// PackInfo describes a pack: id Name, uint Size, uint IdxSize, bool Closed.
type PackInfo struct {
	Name          pack.ID // pack-NAME.pack
	Size, IdxSize int64   // bytes
	Closed        bool    // all below its objects is there (I9)
}

// Session is the reply to Begin: uint ID, then packs: those that the server promises
// to keep while the session lives.
type Session struct {
	ID    uint32
	Packs []PackInfo
}

// PackList is the reply to Commit: packs.
type PackList []PackInfo

// Append appends the encoded message.
func (m PackList) Append(b []byte) []byte {
	for i := range m {
		b = putUint(putUint(putID(b, m[i].Name), uint64(m[i].Size)), uint64(m[i].IdxSize))
		b = putBool(b, m[i].Closed)
	}
	return b
}

func (p *parser) packs() (list []PackInfo) {
	for p.err == nil && len(p.b) > 0 {
		list = append(list, PackInfo{p.id(), p.size(), p.size(), p.bool()})
	}
	return list
}

func (p *parser) size() int64 {
	n := p.uint()
	if n > math.MaxInt64 {
		p.fail("a size is too large")
	}
	return int64(n)
}

// ParsePacks reads a PackList.
func ParsePacks(b []byte) (PackList, error) {
	p := parser{b: b, what: "packs"}
	m := PackList(p.packs())
	return m, p.end()
}

// Append appends the encoded message.
func (m *Session) Append(b []byte) []byte {
	return PackList(m.Packs).Append(putUint(b, uint64(m.ID)))
}

// ParseSession reads a Session.
func ParseSession(b []byte) (Session, error) {
	p := parser{b: b, what: "session"}
	m := Session{ID: p.session(), Packs: p.packs()}
	return m, p.end()
}

// AddRequest adds objects: uint Session, byte Class, then for each id, four bytes CRC,
// bytes entry.
type AddRequest struct {
	Session uint32
	Class   repo.Class
	Entries []pack.Entry
}

// AppendAdd appends what an AddRequest begins with.
func AppendAdd(b []byte, session uint32, class repo.Class) []byte {
	return append(putUint(b, uint64(session)), byte(class))
}

// AppendAdded appends what stands before the bytes of an entry in an AddRequest.
func AppendAdded(b []byte, e *pack.Entry) []byte {
	b = binary.BigEndian.AppendUint32(putID(b, e.ID), e.CRC)
	return putUint(b, uint64(len(e.Bytes)))
}

// ParseAdd reads an AddRequest; its entries are appended to dst and keep b.
func ParseAdd(dst []pack.Entry, b []byte) (m AddRequest, err error) {
	p := parser{b: b, what: "add"}
	m.Session, m.Class, m.Entries = p.session(), repo.Class(p.byte()), dst
	if m.Class > repo.Trees {
		p.fail("there is no such class")
	}
	for p.err == nil && len(p.b) > 0 {
		e := pack.Entry{ID: p.id()}
		if crc := p.take(4); crc != nil {
			e.CRC = binary.BigEndian.Uint32(crc)
		}
		e.Bytes = p.bytes()
		m.Entries = append(m.Entries, e)
	}
	return m, p.end()
}

// AddSession reads the session from the first bytes of an AddRequest.
func AddSession(b []byte) (uint32, error) {
	p := parser{b: b, what: "add"}
	n := p.session()
	return n, p.err
}

// Number is a message of one uint.
type Number uint32

// Append appends the encoded message.
func (m Number) Append(b []byte) []byte { return putUint(b, uint64(m)) }

// ParseNumber reads a Number.
func ParseNumber(b []byte) (Number, error) {
	p := parser{b: b, what: "number"}
	n := p.session()
	return Number(n), p.end()
}

// MoveRequest moves a ref: text Ref, id Old, id New, bool Reparent, int Objects, int Bytes,
// uint Milliseconds, int ClientTime. Who did it, and what came, the server knows
// by itself; figures serve only for a client that is not asked who it is.
type MoveRequest struct{ Move repo.Move }

// Append appends the encoded message.
func (m *MoveRequest) Append(b []byte) []byte {
	v, s := &m.Move, &m.Move.Stats
	b = putBool(putID(putID(putText(b, v.Ref), v.Old), v.New), v.Reparent)
	b = putInt(putInt(b, s.Objects), s.Bytes)
	return putInt(putUint(b, uint64(max(0, s.Seconds)*1000)), s.ClientTime)
}

// ParseMove reads a MoveRequest.
func ParseMove(b []byte) (MoveRequest, error) {
	p := parser{b: b, what: "move"}
	v := repo.Move{Ref: p.text(), Old: p.id(), New: p.id(), Reparent: p.bool()}
	v.Stats = repo.MoveStats{Objects: p.int(), Bytes: p.int(), Seconds: float64(p.uint()) / 1000, ClientTime: p.int()}
	return MoveRequest{v}, p.end()
}

// ReadRequest asks for bytes of a file: text Name, int Off, uint N. The reply has
// fewer only at the end of the file.
type ReadRequest struct {
	Name string
	Off  int64
	N    int // at most 1 MiB
}

// Append appends the encoded message.
func (m *ReadRequest) Append(b []byte) []byte {
	return putUint(putInt(putText(b, m.Name), m.Off), uint64(m.N))
}

// ParseRead reads a ReadRequest.
func ParseRead(b []byte) (ReadRequest, error) {
	p := parser{b: b, what: "read"}
	m := ReadRequest{Name: p.text(), Off: p.int()}
	if n := p.uint(); n <= MaxFrame && m.Off >= 0 {
		m.N = int(n)
	} else {
		p.fail("more than 1 MiB at once, or from before the beginning")
	}
	return m, p.end()
}

// FileInfo is a file of a Store: text Name, int Size.
type FileInfo struct {
	Name string
	Size int64
}

// FileList is a reply to List: files, without a count.
type FileList []FileInfo

// Append appends the encoded message.
func (m FileList) Append(b []byte) []byte {
	for i := range m {
		b = putInt(putText(b, m[i].Name), m[i].Size)
	}
	return b
}

// CheckRequest asks the server to check a repository: bool Quick, list of text
// Names. Findings come as Notes, each the JSON of a repo.Finding; the reply is
// the JSON of a repo.CheckResult.
type CheckRequest struct {
	Quick bool
	Names []string
}

// Append appends the encoded message.
func (m *CheckRequest) Append(b []byte) []byte {
	return Names(m.Names).Append(putBool(b, m.Quick))
}

// ParseCheck reads a CheckRequest.
func ParseCheck(b []byte) (m CheckRequest, err error) {
	p := parser{b: b, what: "check"}
	m.Quick = p.bool()
	n := p.count(1)
	for range n {
		m.Names = append(m.Names, p.text())
	}
	return m, p.end()
}
