// Package integrity keeps the sensitive directories of a router (configuration,
// keys, operational data) encrypted at rest with Linux fscrypt, under a key that
// only the TPM of this machine gives out, and keeps a machine that was tampered
// with off the network.
//
// # Start here
//
// A [Handler] is the whole service. [Handler.Check] says whether a system can be
// protected, [Handler.Enable] protects it, once for its life, and [Handler.Run]
// is what runs at each boot: it takes the key from the TPM, verifies that every
// directory is the one that was protected, opens them, says that the system is
// ready, and watches. Any failure is an integrity event: networking stays
// blocked, the emergency text goes to the kernel log and to every console, and
// Run tries again and again. examples/integrityd is the reference service, with a
// systemd unit.
//
// # Where keys live
//
// The key is 256 bits from the TPM's generator. A [KeyWrapper] wraps it; package
// tpmwrap has the two that use a TPM, and a product can bring its own. Only the
// wrapped form is on disk. The plain key is in memory that is locked, kept out of
// core dumps, and wiped, for as long as it takes to hand it to the kernel. It is
// never in a file, an argument or a string.
//
// In [ModeDirect] the key is the fscrypt master key. In [ModeCompat] it is the
// raw key protector of the metadata of the fscrypt command line tool, which can
// then manage the same directories.
//
// # What is verified
//
// The manifest lists each directory with its key identifier, modes and flags. Its
// digest is wrapped together with the key, and kept in the TPM where the wrapper
// is an [Anchor]. Before the key reaches the kernel, the policy of every
// directory is compared with it: a plain directory, another key or other modes
// under a protected name open nothing at all.
//
// # What it does not do
//
// fscrypt does not hide sizes, permissions, times and extended attributes, and
// does not notice that encrypted contents were changed offline. Directories are
// encrypted from their creation: one with files in it is refused, since moving
// files leaves their plain blocks on the disk. There is no recovery key. A system
// whose TPM was cleared or exchanged needs a clean install or an RMA; a factory
// reset needs directories that stay locked.
//
// Package cause names every failure. Packages fscrypt and pcrpolicy can be used
// on their own. The file formats have version numbers and are kept readable.
//
// The package is larger than its siblings, because a handler, the files that it
// keeps and the reports that it writes change together.
package integrity
