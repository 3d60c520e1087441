// The boxes of a photo, in C++ by OpenCV alone, for what `export.py --format darknet --fold-bn` wrote:
//
//     g++ -O2 opencv_dnn.cpp -o opencv_dnn $(pkg-config --cflags --libs opencv4)      (OpenCV 4, not 5)
//     ./opencv_dnn best_darknet.cfg best_darknet.weights best_darknet.names photo.jpg

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <opencv2/dnn.hpp>
#include <opencv2/imgcodecs.hpp>
#include <opencv2/imgproc.hpp>
#include <string>
#include <vector>

const float least_score = 0.25f, iou = 0.45f;
const bool vote = true;  // box voting, as detect.py does unless it has --vote off

// The width= or height= of a cfg.
int side(const std::string& cfg, const std::string& key) {
    std::ifstream file(cfg);
    for (std::string line; std::getline(file, line);)
        if (line.rfind(key + "=", 0) == 0) return std::stoi(line.substr(key.size() + 1));
    return 416;
}

int main(int count, char** arguments) {
    if (count != 5) return std::fprintf(stderr, "expected: CFG WEIGHTS NAMES IMAGE\n"), 2;
    std::vector<std::string> names;
    std::ifstream file(arguments[3]);
    for (std::string line; std::getline(file, line);) names.push_back(line);
    const cv::Mat image = cv::imread(arguments[4]);
    if (image.empty()) return std::fprintf(stderr, "%s: not an image\n", arguments[4]), 2;
    cv::dnn::Net net = cv::dnn::readNetFromDarknet(arguments[1], arguments[2]);

    const int width = side(arguments[1], "width"), height = side(arguments[1], "height");
    const double ratio = std::min(double(width) / image.cols, double(height) / image.rows);
    cv::Mat inside, picture(height, width, CV_8UC3, cv::Scalar::all(114));
    cv::resize(image, inside, cv::Size(std::max(1, cvRound(image.cols * ratio)), std::max(1, cvRound(image.rows * ratio))));
    const int left = (width - inside.cols) / 2, top = (height - inside.rows) / 2;
    const double scale_x = double(inside.cols) / image.cols, scale_y = double(inside.rows) / image.rows;
    inside.copyTo(picture(cv::Rect(left, top, inside.cols, inside.rows)));

    net.setInput(cv::dnn::blobFromImage(picture, 1 / 255.0, cv::Size(), cv::Scalar(), true));  // true: BGR -> RGB
    std::vector<cv::Mat> heads;
    net.forward(heads, net.getUnconnectedOutLayersNames());

    std::vector<cv::Rect2d> boxes, apart;  // apart: the classes side by side, so that NMS is done within each
    std::vector<float> scores;
    std::vector<int> labels;
    for (const cv::Mat& head : heads)
        for (int row = 0; row < head.rows; row++) {  // centre x, y, width, height (0..1), objectness, scores
            const float* at = head.ptr<float>(row);
            const int label = int(std::max_element(at + 5, at + head.cols) - (at + 5));
            if (at[5 + label] < least_score) continue;
            const double w = at[2] * width / scale_x, h = at[3] * height / scale_y;
            const double x = (at[0] * width - left) / scale_x - w / 2, y = (at[1] * height - top) / scale_y - h / 2;
            boxes.emplace_back(x, y, w, h);
            apart.emplace_back(x + label * 1e5, y, w, h);
            scores.push_back(at[5 + label]);
            labels.push_back(label);
        }
    std::vector<int> kept;
    cv::dnn::NMSBoxes(apart, scores, least_score, iou, kept);
    for (int index : kept) {
        const cv::Rect2d& box = boxes[index];
        double sums[5] = {};  // of the scores, and of x1, y1, x2, y2 times the scores
        for (size_t other = 0; other < boxes.size(); other++) {
            const double shared = (apart[index] & apart[other]).area();
            const bool votes = vote && shared > iou * (box.area() + boxes[other].area() - shared);
            if (!votes && other != size_t(index)) continue;
            const cv::Rect2d& voter = boxes[other];
            const double parts[] = {1, voter.x, voter.y, voter.x + voter.width, voter.y + voter.height};
            for (int part = 0; part < 5; part++) sums[part] += scores[other] * parts[part];
        }
        std::printf("%s %.3f %.1f %.1f %.1f %.1f\n", names.at(labels[index]).c_str(), scores[index],
                    sums[1] / sums[0], sums[2] / sums[0], sums[3] / sums[0], sums[4] / sums[0]);
    }
}
