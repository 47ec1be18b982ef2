// Package peer serves what a node holds: finished images, and the durable part
// of a download that still runs, so that the other node of an HA pair gets
// from here what it need not get over the WAN.
//
// [New] returns an [http.Handler] for a folder. It serves the images beside
// which a passport stands (F.mooring, which download leaves there), the images
// that the status files of a state directory name, and a repository that
// repo.Make made. Nothing else in the folder is reachable. [Listen] asks the
// kernel for BBR on the sockets, which on a lossy path is worth a factor of ten
// and more over CUBIC.
//
// Of a running download only chunks are served that were verified and synced.
// What is not there is answered with 416, never with bytes that would have to be
// taken back. The client verifies everything, so this end needs no key, and a
// file that somebody changed is refused over there.
package peer
