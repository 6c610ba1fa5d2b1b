package pack

import "testing"

func TestFilter(t *testing.T) {
	recs := randomRecords(120_000, 1<<20)
	f := NewFilter(100_000)
	for _, r := range recs[:100_000] {
		f.Add(r.ID)
	}
	for _, r := range recs[:100_000] {
		if !f.Has(r.ID) {
			t.Fatal("an id is denied")
		}
	}
	wrong := 0
	for _, r := range recs[100_000:] {
		if f.Has(r.ID) {
			wrong++
		}
	}
	if wrong > 20_000/50 {
		t.Errorf("%d of 20000 are confirmed without having been added", wrong)
	}
	if bits := len(f.lines) * 512; bits > 100_000*filterBits+512 {
		t.Errorf("%d bits", bits)
	}
	if NewFilter(0).Has(recs[0].ID) {
		t.Error("an empty filter confirms")
	}
}
