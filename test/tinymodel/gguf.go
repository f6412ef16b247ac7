package tinymodel

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A field is an entry of the file's metadata. Its value is one of the types that
// appendValue knows.
type field struct {
	key   string
	value any
}

// A tensor holds F32 values, the first of its dimensions being the one whose
// neighbours lie side by side.
type tensor struct {
	name       string
	dimensions []int
	values     []float32
}

// alignment is what a tensor's data starts at a multiple of: the format's default.
const alignment = 32

// The numbers by which GGUF names the types of metadata.
const (
	typeUint32  = 4
	typeInt32   = 5
	typeFloat32 = 6
	typeBool    = 7
	typeString  = 8
	typeArray   = 9
)

var order = binary.LittleEndian

// encode returns a GGUF file of version 3.
func encode(fields []field, tensors []tensor) []byte {
	b := []byte("GGUF")
	b = order.AppendUint32(b, 3)
	b = order.AppendUint64(b, uint64(len(tensors)))
	b = order.AppendUint64(b, uint64(len(fields)))
	for _, f := range fields {
		b = appendString(b, f.key)
		b = appendValue(b, f.value)
	}
	offset := 0
	for _, t := range tensors {
		b = appendString(b, t.name)
		b = order.AppendUint32(b, uint32(len(t.dimensions)))
		for _, n := range t.dimensions {
			b = order.AppendUint64(b, uint64(n))
		}
		b = order.AppendUint32(b, 0) // F32
		b = order.AppendUint64(b, uint64(offset))
		offset += pad(4 * len(t.values))
	}
	b = append(b, make([]byte, pad(len(b))-len(b))...)
	for _, t := range tensors {
		for _, v := range t.values {
			b = order.AppendUint32(b, math.Float32bits(v))
		}
		b = append(b, make([]byte, pad(len(b))-len(b))...)
	}
	return b
}

// pad returns n, rounded up to the alignment.
func pad(n int) int {
	return (n + alignment - 1) / alignment * alignment
}

func appendString(b []byte, s string) []byte {
	b = order.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

func appendValue(b []byte, value any) []byte {
	array := func(elem uint32, n int) []byte {
		b := order.AppendUint32(b, typeArray)
		b = order.AppendUint32(b, elem)
		return order.AppendUint64(b, uint64(n))
	}
	switch v := value.(type) {
	case uint32:
		return order.AppendUint32(order.AppendUint32(b, typeUint32), v)
	case float32:
		return order.AppendUint32(order.AppendUint32(b, typeFloat32), math.Float32bits(v))
	case bool:
		b = order.AppendUint32(b, typeBool)
		if v {
			return append(b, 1)
		}
		return append(b, 0)
	case string:
		return appendString(order.AppendUint32(b, typeString), v)
	case []string:
		b = array(typeString, len(v))
		for _, s := range v {
			b = appendString(b, s)
		}
		return b
	case []float32:
		b = array(typeFloat32, len(v))
		for _, f := range v {
			b = order.AppendUint32(b, math.Float32bits(f))
		}
		return b
	case []int32:
		b = array(typeInt32, len(v))
		for _, n := range v {
			b = order.AppendUint32(b, uint32(n))
		}
		return b
	}
	panic(fmt.Sprintf("BUG: metadata of type %T", value))
}
